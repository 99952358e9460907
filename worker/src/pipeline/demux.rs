//! Reading an input: seek, shift times onto the title's timeline, hand packets to their lanes.

use super::{
    Feed, Outlet, Ready, Shared, av, burn::SUBTITLE_LEAD_US, copy::CopyLane, end::Ends,
    feed::Inlet, first::SoundQueue, jump::Jumps, open::OpenInput, subtitle::SubtitleLane,
};
use crate::libav::{MICROS, MediaType, NOPTS, Packet, rescale};
use plexbeam_api::{Kind, Problem, segment::MediaKind};
use std::sync::{atomic::Ordering, mpsc::SyncSender};

/// Where the packets of one stream go.
pub(super) enum Target {
    Video(SyncSender<Packet>),
    Audio(SoundQueue),
    Copy(Box<CopyLane>),
    Subtitle(Box<SubtitleLane>),
    /// Subtitles that are drawn on pictures.
    Burn(Inlet),
    Attachment {
        outlet: Outlet,
        ready: Box<Ready>,
    },
    /// Pictures that have ended while other streams go on.
    Over,
}

/// A stream of this input and its target.
pub(super) struct Route {
    pub(super) index: usize,
    pub(super) to: Target,
    /// Up to where its stream was heard, microseconds.
    heard_us: i64,
}

impl Route {
    pub(super) fn new(index: usize, to: Target) -> Self {
        Route {
            index,
            to,
            heard_us: i64::MIN,
        }
    }

    /// Tells a lane that reading went on without it. False when nobody listens.
    fn until(&mut self, time_us: i64) -> bool {
        self.heard_us = time_us;
        match &mut self.to {
            Target::Audio(queue) => queue.send(Feed::Until(time_us)),
            Target::Copy(lane) if lane.media != MediaKind::Video => lane.outlet.until(time_us),
            Target::Subtitle(lane) => lane.until(time_us),
            Target::Copy(_)
            | Target::Video(_)
            | Target::Burn(_)
            | Target::Attachment { .. }
            | Target::Over => true,
        }
    }

    /// Ends pictures that lie behind the reading position for good, so that what the encoder holds
    /// back comes out. `end_us`: where the container says that they end. False when nobody listens.
    fn end_pictures(&mut self, here_us: i64, end_us: Option<i64>) -> bool {
        let over = end_us.is_some_and(|end| end.max(self.heard_us) + SILENCE_US < here_us);
        if !over || self.heard_us == i64::MIN {
            return true;
        }
        match &self.to {
            Target::Video(_) => self.to = Target::Over,
            Target::Copy(lane) if lane.media == MediaKind::Video => {
                let alive = lane.outlet.end();
                self.to = Target::Over;
                return alive;
            }
            Target::Copy(_)
            | Target::Audio(_)
            | Target::Subtitle(_)
            | Target::Burn(_)
            | Target::Attachment { .. }
            | Target::Over => {}
        }
        true
    }

    /// How far behind the reading position it may be before it is told to be silent.
    fn patience_us(&self) -> i64 {
        match &self.to {
            Target::Subtitle(_) => SUBTITLE_SILENCE_US,
            Target::Copy(lane) if lane.media == MediaKind::Subtitle => SUBTITLE_SILENCE_US,
            Target::Copy(_)
            | Target::Video(_)
            | Target::Audio(_)
            | Target::Burn(_)
            | Target::Attachment { .. }
            | Target::Over => SILENCE_US,
        }
    }
}

/// A stream that is this far behind the reading position is told to be silent until there. Larger
/// than any interleaving of a sane file.
const SILENCE_US: i64 = 5_000_000;

/// The same for subtitles: nobody waits for them, but a finished segment of theirs can be told of.
const SUBTITLE_SILENCE_US: i64 = 2_000_000;

/// How much earlier than the start audio is read: an encoder wants two frames before its first
/// wanted one, and packets are cut by decoding time, which lies before the presentation time by the
/// video encoder's delay.
pub(super) const AUDIO_LEAD_US: i64 = 500_000;

/// Damaged packets in a row that are passed over.
const MAX_DAMAGED: u32 = 200;

/// Reads an input to its end.
pub(super) fn run(
    mut open: OpenInput,
    mut routes: Vec<Route>,
    shared: &Shared,
) -> Result<(), Problem> {
    for route in &mut routes {
        let alive = match &mut route.to {
            Target::Copy(lane) => lane
                .ready
                .take()
                .is_none_or(|ready| lane.outlet.ready(ready)),
            Target::Subtitle(lane) => lane.announce()?,
            Target::Video(_)
            | Target::Audio(_)
            | Target::Burn(_)
            | Target::Attachment { .. }
            | Target::Over => true,
        };
        if !alive {
            return Ok(());
        }
    }
    let mut kept = Vec::new();
    for route in routes {
        match route.to {
            Target::Attachment { outlet, ready } => {
                if !(outlet.ready(*ready) && outlet.end()) {
                    return Ok(());
                }
            }
            to => kept.push(Route::new(route.index, to)),
        }
    }
    let mut routes = kept;
    if routes.is_empty() {
        return Ok(());
    }
    let only_burned = routes.iter().all(|r| matches!(r.to, Target::Burn(_)));
    let video_from = match open.seek_us {
        // A subtitle file is small, and what began before the start may still be seen.
        Some(time) if !open.inline && !only_burned => seek(&mut open, &routes, time, shared)?,
        _ => None,
    };
    let from_us = open.seek_us.map_or(i64::MIN, |t| t - open.shift_us);
    if let Some(from) = &video_from
        && copies(&routes, from.index)
    {
        // The sound of a copied video begins where the pictures do.
        let base = open.input.streams[from.index].time_base;
        let key_us = rescale(from.time, base, MICROS) - open.shift_us;
        for route in &routes {
            if let Target::Audio(queue) = &route.to
                && !queue.send(Feed::Start(key_us))
            {
                return Ok(());
            }
        }
    }
    let ends = read_all(&mut open, &mut routes, video_from, from_us, shared)?;
    if shared.is_over() {
        return Ok(());
    }
    ends.check(&open, &routes)?;
    let end_us = ends.title_us(&open, &routes);
    for route in &mut routes {
        if route.heard_us.saturating_add(SILENCE_US) < end_us && !route.until(end_us) {
            return Ok(());
        }
    }
    for route in routes {
        let alive = match route.to {
            Target::Copy(lane) => lane.outlet.end(),
            Target::Subtitle(lane) => lane.end(),
            // Decoders see the end of their queue when the sender is dropped here.
            Target::Video(_)
            | Target::Audio(_)
            | Target::Burn(_)
            | Target::Attachment { .. }
            | Target::Over => true,
        };
        if !alive {
            break;
        }
    }
    Ok(())
}

/// Is this stream copied, not encoded?
fn copies(routes: &[Route], index: usize) -> bool {
    routes
        .iter()
        .any(|r| r.index == index && matches!(r.to, Target::Copy(_)))
}

/// The video key at which a stream starts, in its own unshifted times.
struct VideoFrom {
    index: usize,
    /// As [`Packet::time`] tells it.
    time: i64,
}

/// Goes to the last video key frame at or before `time` (container time, microseconds), and with
/// audio routes as much earlier as they need.
fn seek(
    open: &mut OpenInput,
    routes: &[Route],
    time: i64,
    shared: &Shared,
) -> Result<Option<VideoFrom>, Problem> {
    let failed = |name: &str, why: String| {
        Problem::new(
            Kind::BadInput,
            format!("input {name}: seek to {:.3} s: {why}", time as f64 / 1e6),
        )
    };
    let name = open.name.clone();
    let input = &mut open.input;
    let is_video = |r: &&Route| {
        input.streams[r.index].params.media_type() == MediaType::AVMEDIA_TYPE_VIDEO
            && !input.streams[r.index].is_attached_picture()
    };
    let Some(video) = routes.iter().find(is_video).map(|r| r.index) else {
        let index = routes[0].index;
        let target = rescale(time - AUDIO_LEAD_US, MICROS, input.streams[index].time_base);
        input
            .seek(index, target)
            .map_err(|e| failed(&name, e.to_string()))?;
        return Ok(None);
    };
    let base = input.streams[video].time_base;
    let target = rescale(time, MICROS, base);
    // Containers without an index may land behind the time asked for: then look further back.
    let mut found = None;
    for back_us in [0, 3_000_000, 15_000_000, 60_000_000, time] {
        let at = rescale((time - back_us).max(0), MICROS, base);
        if input.seek(video, at).is_err() {
            continue;
        }
        found = last_key(input, video, target, shared).map_err(|e| failed(&name, av(&e).detail))?;
        if found.is_some() || back_us >= time {
            break;
        }
    }
    let Some(key) = found else {
        return Err(failed(
            &name,
            "the video has no key frame before that time".to_owned(),
        ));
    };
    // Where the key lies close to the time asked for, the sound's lead begins in the group before:
    // its pictures are read and dropped, not decoded.
    let key_us = rescale(key, base, MICROS);
    let burns = routes.iter().any(|r| matches!(r.to, Target::Burn(_)));
    let lead_us = if burns {
        SUBTITLE_LEAD_US
    } else {
        AUDIO_LEAD_US
    };
    let back = rescale((key_us.min(time) - lead_us).max(0), MICROS, base);
    let at = if routes.len() > 1 { back } else { key };
    let again = input.seek(video, at).or_else(|_| input.seek(video, key));
    again.map_err(|e| failed(&name, e.to_string()))?;
    Ok(Some(VideoFrom {
        index: video,
        time: key,
    }))
}

/// Reads on to the last key of a stream at or before `target`; `None` when the first is later.
fn last_key(
    input: &mut crate::libav::Input,
    video: usize,
    target: i64,
    shared: &Shared,
) -> Result<Option<i64>, crate::libav::AvError> {
    let base = input.streams[video].time_base;
    let indexed = !input.format().starts_with("mpeg");
    let second = rescale(1_000_000, MICROS, base);
    let mut key = None;
    while let Some(packet) = input.read()? {
        if shared.is_over() {
            break;
        }
        if packet.stream() != video {
            continue;
        }
        let time = packet.time();
        if time == NOPTS {
            continue;
        }
        if packet.is_key() && time <= target {
            key = Some(time);
            if indexed {
                break;
            }
        }
        // Pictures are reordered by less than a second.
        if time > target + second {
            break;
        }
    }
    Ok(key)
}

/// Hands out all packets.
fn read_all(
    open: &mut OpenInput,
    routes: &mut [Route],
    mut video_from: Option<VideoFrom>,
    from_us: i64,
    shared: &Shared,
) -> Result<Ends, Problem> {
    let mut ends = Ends::new();
    let wanted_us = from_us.saturating_add(open.shift_us);
    let mut jumps = Jumps::new(wanted_us.max(open.input.start_us()));
    let mut damaged = 0;
    while shared.pass() {
        let mut packet = match open.input.read() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(error) if error.is_interrupted() => break,
            Err(error) if error.is_invalid_data() && damaged < MAX_DAMAGED => {
                damaged += 1;
                continue;
            }
            Err(error) => {
                let why = open
                    .input
                    .take_io_error()
                    .map_or(error.to_string(), |e| e.to_string());
                return Err(Problem::new(
                    Kind::BadInput,
                    format!("input {}: {why}", open.name),
                ));
            }
        };
        damaged = 0;
        let index = packet.stream();
        let Some(stream) = open.input.streams.get(index) else {
            continue;
        };
        let base = stream.time_base;
        // Lines of text may be hours apart.
        if matches!(
            stream.params.media_type(),
            MediaType::AVMEDIA_TYPE_VIDEO | MediaType::AVMEDIA_TYPE_AUDIO
        ) {
            let times = (packet.pts(), packet.dts());
            let (pts, dts) = jumps.mend(index, times, packet.duration(), base);
            packet.set_times(pts, dts);
        }
        if let Some(from) = &video_from
            && from.index == index
        {
            // A decoder or a copy starts at the key found, not in the group before it.
            if !(packet.is_key() && packet.time() != NOPTS && packet.time() >= from.time) {
                continue;
            }
            video_from = None;
        }
        let shift = rescale(open.shift_us, MICROS, base);
        let moved = |time: i64| {
            if time == NOPTS {
                NOPTS
            } else {
                time.saturating_sub(shift)
            }
        };
        packet.set_times(moved(packet.pts()), moved(packet.dts()));
        let time = packet.time();
        if time != NOPTS {
            let here = rescale(time, base, MICROS);
            let lasts = rescale(packet.duration().max(0), base, MICROS);
            ends.packet(stream.params.media_type(), here, lasts);
            for route in routes.iter_mut() {
                if let Target::Burn(inlet) = &route.to {
                    inlet.reached(here);
                }
                if route.index == index {
                    route.heard_us = route.heard_us.max(here);
                    continue;
                }
                let over_us = open.input.streams[route.index]
                    .duration_us
                    .map(|length| open.input.start_us() + length - open.shift_us);
                if !route.end_pictures(here, over_us) {
                    return Ok(ends);
                }
                let patience = route.patience_us();
                if route.heard_us.saturating_add(2 * patience) < here
                    && !route.until(here - patience)
                {
                    return Ok(ends);
                }
            }
        }
        if !deliver(routes, index, packet, from_us, shared)? {
            break;
        }
    }
    // What the source itself could not read looks like an end of file to some demuxers.
    if let Some(error) = open.input.take_io_error()
        && !shared.is_over()
    {
        return Err(Problem::new(
            Kind::BadInput,
            format!("input {}: {error}", open.name),
        ));
    }
    Ok(ends)
}

/// False when nobody takes packets any more.
fn deliver(
    routes: &mut [Route],
    index: usize,
    packet: Packet,
    from_us: i64,
    shared: &Shared,
) -> Result<bool, Problem> {
    let mut packet = Some(packet);
    let last = routes.iter().rposition(|r| r.index == index);
    for (at, route) in routes
        .iter_mut()
        .enumerate()
        .filter(|(_, r)| r.index == index)
    {
        let own = if Some(at) == last {
            packet.take()
        } else {
            packet
                .as_ref()
                .map(Packet::share)
                .transpose()
                .map_err(|e| av(&e))?
        };
        let Some(own) = own else { break };
        let alive = match &mut route.to {
            Target::Video(queue) => {
                shared.vdec_packets.fetch_add(1, Ordering::Relaxed);
                queue.send(own).is_ok()
            }
            Target::Audio(queue) => queue.send(Feed::Packet(own)),
            Target::Copy(lane) => lane.packet(own, from_us, shared)?,
            Target::Subtitle(lane) => lane.packet(&own, from_us, shared),
            Target::Burn(inlet) => {
                inlet.push(own);
                true
            }
            Target::Attachment { .. } | Target::Over => true,
        };
        if !alive {
            return Ok(false);
        }
    }
    Ok(true)
}
