//! The first files of a job, kept for the next job that would make the same ones: a title that is
//! started again in the same way is there at once.
//!
//! Two jobs make the same files when their words are the same but for whose they are and where the
//! bytes lie, and when they read the same versions of their inputs
//! ([`crate::pipeline::Sink::opened`]), on the processor. The second job's child opens its inputs as
//! ever, so nobody gets what he may not read; it also makes all files itself, and what was given out
//! already is compared with them: an init segment must be the same, a media segment has the same
//! frames and times and may have other bytes where an encoder keeps to a rate. Kept files lie in the
//! spool, count towards its ceiling and are the first to go.
//!
//! Lock order: [`Beginnings`] before the store; neither is held over an await.

use super::Session;
use crate::{
    plan,
    store::{Reservation, ShelfId, Store, random_id},
};
use lru::LruCache;
use parking_lot::Mutex;
use plexbeam_api::{
    Event, FileName, JobSpec, Kind, Problem, Segment,
    event::{LogLevel, LogLine, Probed},
    job::{CodecSpec, Container, LeasePolicy, Location, OutputSpec, Packaging},
    segment::{Digest, MediaKind, SegmentKind},
};
use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::Arc,
};

/// Beginnings of the jobs started last.
#[derive(Debug)]
pub(super) struct Beginnings {
    store: Arc<Store>,
    /// `None`: none are kept.
    kept: Option<Mutex<LruCache<Digest, Kept>>>,
}

#[derive(Debug)]
struct Kept {
    shelf: ShelfId,
    probed: Probed,
    files: Vec<Segment>,
}

impl Beginnings {
    /// Keeps at most this many.
    pub(super) fn new(store: Arc<Store>, most: usize) -> Self {
        let kept = NonZeroUsize::new(most).map(|most| Mutex::new(LruCache::new(most)));
        Beginnings { store, kept }
    }

    /// Puts what is kept of this beginning into a session's shelf; gives what was put there.
    fn give(&self, key: &Digest, to: ShelfId) -> Option<(Probed, Vec<Segment>)> {
        let mut kept = self.kept.as_ref()?.lock();
        let found = kept.get(key)?;
        let shared = |file: &Segment| self.store.share(found.shelf, file, to).is_ok();
        // In the order of publication: what a file needs to be read lies before it.
        let files: Vec<Segment> = (found.files.iter())
            .map_while(|f| shared(f).then(|| f.clone()))
            .collect();
        let probed = found.probed.clone();
        if files.len() < found.files.len() {
            // The spool needed the room.
            self.remove(kept.pop(key));
        }
        (!files.is_empty()).then_some((probed, files))
    }

    /// Keeps a file of a beginning, as long as there is room.
    fn keep(&self, key: &Digest, probed: &Probed, file: &Segment, from: ShelfId) {
        let Some(kept) = &self.kept else { return };
        let mut kept = kept.lock();
        if !kept.contains(key) {
            let Ok(shelf) = self.store.open_spare_shelf(&random_id("beginning")) else {
                return;
            };
            let new = Kept {
                shelf,
                probed: probed.clone(),
                files: Vec::new(),
            };
            self.remove(kept.push(key.clone(), new).map(|(_, oldest)| oldest));
        }
        let Some(own) = kept.get_mut(key) else { return };
        let known = own.files.iter().any(|known| known.name == file.name);
        if !known && self.store.share(from, file, own.shelf).is_ok() {
            own.files.push(file.clone());
        }
    }

    fn forget(&self, key: &Digest) {
        if let Some(kept) = &self.kept {
            self.remove(kept.lock().pop(key));
        }
    }

    fn remove(&self, kept: Option<Kept>) {
        if let Some(kept) = kept {
            self.store.remove(kept.shelf);
        }
    }
}

/// What two jobs that make the same files have in common; `None` for a job that goes on with another's
/// work, and where the files of one making do not go with those of another.
fn key(spec: &JobSpec, inputs: &Digest) -> Option<Digest> {
    if spec.resume.is_some() || !spec.outputs.iter().all(goes_together) {
        return None;
    }
    let mut words = spec.clone();
    words.job_id = "any".parse().ok()?;
    words.lease = LeasePolicy::default();
    words.argv.clear();
    for input in &mut words.inputs {
        (input.locations).retain(|location| matches!(location, Location::Inline { .. }));
    }
    let mut text = serde_json::to_vec(&words).ok()?;
    text.extend_from_slice(inputs.0.as_bytes());
    Some(Digest::of(&text))
}

/// True where a player may go from the files of one making on to those of another. Matroska's headers
/// hold random ids. A transport stream counts its packets from segment to segment
/// (`continuity_counter`, ISO/IEC 13818-1), so there both makings must have the same bytes.
fn goes_together(output: &OutputSpec) -> bool {
    let is_repeatable = || !output.streams.iter().any(|s| keeps_to_rate(&s.codec));
    match &output.packaging {
        Packaging::Dash { .. } => true,
        Packaging::Hls { .. } => is_repeatable(),
        Packaging::Segment { container, .. } => match container {
            Container::Matroska => false,
            Container::MpegTs => is_repeatable(),
            Container::Ass | Container::Srt | Container::WebVtt => true,
        },
    }
}

/// True for video whose encoder looks at what its threads have spent so far: with several of them x264
/// makes other bytes each time.
fn keeps_to_rate(codec: &CodecSpec) -> bool {
    let CodecSpec::Encode { encoder, options } = codec else {
        return false;
    };
    let is_video = plan::encoder(encoder).is_some_and(|e| e.media == MediaKind::Video);
    let bounds = |(key, value): &(String, String)| {
        matches!(key.as_str(), "b" | "maxrate" | "bufsize")
            || ["vbv", "bitrate"].iter().any(|word| value.contains(word))
    };
    is_video && options.iter().any(bounds)
}

/// Takes what a job's child tells and makes, and puts it into the session.
pub(super) struct Publisher<'a> {
    session: &'a Session,
    store: &'a Arc<Store>,
    beginnings: &'a Beginnings,
    key: Option<Digest>,
    probed: Option<Probed>,
    /// The files that came from an earlier job and are still to be made by this one.
    given: HashMap<FileName, Segment>,
    /// Outputs and renditions that have a media segment.
    begun: HashSet<(u32, Option<u32>)>,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(
        session: &'a Session,
        store: &'a Arc<Store>,
        beginnings: &'a Beginnings,
    ) -> Self {
        Publisher {
            session,
            store,
            beginnings,
            key: None,
            probed: None,
            given: HashMap::new(),
            begun: HashSet::new(),
        }
    }

    pub(super) fn session(&self) -> &'a Session {
        self.session
    }

    pub(super) fn store(&self) -> &'a Arc<Store> {
        self.store
    }

    /// The child has its inputs open: what is kept of the same beginning is published now.
    pub(super) fn opened(&mut self, inputs: &Digest) {
        if self.key.is_some() || self.session.has_ended() {
            return;
        }
        self.key = key(&self.session.order.0, inputs);
        let given =
            (self.key.as_ref()).and_then(|key| self.beginnings.give(key, self.session.shelf));
        let Some((probed, files)) = given else { return };
        let message = format!("{} files are kept of an earlier job like this", files.len());
        tracing::info!(session = %self.session.id, "{message}");
        self.session.note(LogLine {
            level: LogLevel::Info,
            message,
        });
        self.session.probed(probed.clone());
        self.probed = Some(probed);
        for file in files {
            self.given.insert(file.name.clone(), file.clone());
            self.session.record(Event::Segment(file));
        }
    }

    pub(super) fn probed(&mut self, probed: Probed) {
        if self.probed.as_ref() != Some(&probed) {
            self.session.probed(probed.clone());
        }
        self.probed = Some(probed);
    }

    /// Makes a written file one of the session's. Errors: those of [`Store::commit`]; `Internal` where
    /// an init segment or header is not the one that was given.
    pub(super) fn publish(
        &mut self,
        reservation: Reservation,
        segment: &Segment,
    ) -> Result<(), Problem> {
        let is_first = segment.kind != SegmentKind::Media
            || self.begun.insert((segment.output, segment.rendition));
        if let Some(given) = self.given.remove(&segment.name) {
            return self.compare(&given, segment);
        }
        self.store.commit(reservation, segment)?;
        let keep = is_first && segment.kind != SegmentKind::Playlist;
        self.session.record(Event::Segment(segment.clone()));
        if let (true, Some(key), Some(probed)) = (keep, &self.key, &self.probed) {
            self.beginnings
                .keep(key, probed, segment, self.session.shelf);
        }
        Ok(())
    }

    /// A file that is out already was made now, too, and is not needed; but all that follows must go
    /// with what is out.
    fn compare(&mut self, given: &Segment, made: &Segment) -> Result<(), Problem> {
        if given.digest == made.digest {
            return Ok(());
        }
        let as_given = Segment {
            size: given.size,
            digest: given.digest.clone(),
            checksum: given.checksum.clone(),
            ..made.clone()
        };
        // Renditions are DASH's: each segment of theirs is decoded by itself.
        if made.kind == SegmentKind::Media && made.rendition.is_some() && as_given == *given {
            tracing::debug!(session = %self.session.id, name = %made.name, "other bytes than before");
            return Ok(());
        }
        if let Some(key) = self.key.take() {
            self.beginnings.forget(&key);
        }
        let session = &self.session.id;
        tracing::warn!(%session, name = %made.name, "not the same as in an earlier job like this");
        match made.kind {
            // Its frames and times are those of the job's timeline, whoever encoded it.
            SegmentKind::Media => Ok(()),
            SegmentKind::Init | SegmentKind::Header | SegmentKind::Playlist => Err(Problem::new(
                Kind::Internal,
                format!(
                    "{} differs from the one that an earlier job like this made; start it again",
                    made.name
                ),
            )),
        }
    }
}
