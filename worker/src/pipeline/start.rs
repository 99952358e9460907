//! The threads of a stream: decoder, filter and encoder, or what its packets pass through.

use super::{
    Outlet, Ready, Shared, av,
    demux::Target,
    first::SoundQueue,
    resolve::{Facts, StreamPlan, Work},
    spawn,
};
use crate::libav::StreamInfo;
use plexbeam_api::Problem;
use std::{sync::mpsc::sync_channel, thread::Scope};

/// Packets that wait for a video decoder. Few: how far the demuxer reads ahead is how far the audio
/// is encoded ahead, which on a small machine takes its time from the first segment.
const VIDEO_QUEUE: usize = 12;
/// Packets that wait for an audio decoder; small ones, and a late start reads many at once.
const AUDIO_QUEUE: usize = 1024;

impl StreamPlan {
    /// Starts the threads of this stream and says where its packets, and those of the subtitles drawn
    /// on it, go: input, index, target.
    pub(super) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        shared: &'scope Shared,
        source: &StreamInfo,
        facts: &'scope Facts,
        outlet: Outlet,
    ) -> Result<Vec<(usize, usize, Target)>, Problem> {
        let mut burned = Vec::new();
        let main = self.start_main(scope, shared, source, facts, outlet, &mut burned)?;
        // A subtitle comes before the pictures that it is drawn on.
        burned.push((self.input, self.index, main));
        Ok(burned)
    }

    fn start_main<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        shared: &'scope Shared,
        source: &StreamInfo,
        facts: &'scope Facts,
        outlet: Outlet,
        burned: &mut Vec<(usize, usize, Target)>,
    ) -> Result<Target, Problem> {
        let params = source.params.duplicate().map_err(|e| av(&e))?;
        let time_base = source.time_base;
        let ready = |params| Ready {
            media: super::describe::media_kind(source.params.media_type()),
            params,
            time_base,
            frame_rate: source.frame_rate,
            encoded: false,
            metadata: self.metadata.clone(),
        };
        match &self.work {
            Work::Copy { before_start } => {
                let lane = super::copy::CopyLane::new(outlet, ready(params), *before_start);
                Ok(Target::Copy(Box::new(lane)))
            }
            Work::Attachment => Ok(Target::Attachment {
                outlet,
                ready: Box::new(ready(params)),
            }),
            Work::Subtitle { encoder } => {
                let converter = super::subtitle::SubtitleLane::new(
                    outlet,
                    &params,
                    time_base,
                    encoder,
                    self.metadata.clone(),
                )?;
                Ok(Target::Subtitle(Box::new(converter)))
            }
            Work::Video(work) => {
                let (sender, packets) = sync_channel(VIDEO_QUEUE);
                let source = super::video::Source {
                    params,
                    time_base,
                    frame_rate: source.frame_rate,
                };
                let (frames_in, frames) = sync_channel(super::video::FRAME_QUEUE);
                let mut subtitles = Vec::new();
                for side in &self.sides {
                    let (inlet, feed) = super::feed::feed(side.input != self.input);
                    burned.push((side.input, side.index, Target::Burn(inlet)));
                    subtitles.push(super::video::Subtitles { side, feed });
                }
                let nodes = super::video::nodes(&work.stages, subtitles)?;
                spawn(scope, shared, "decode", move || {
                    let result = super::video::run(
                        &source, work, nodes, facts, &packets, &frames_in, shared,
                    );
                    // Before the encoder sees its queue end and wonders why.
                    if let Err(problem) = &result {
                        shared.fail(problem.clone());
                    }
                    result
                });
                let metadata = &self.metadata;
                spawn(scope, shared, "encode", move || {
                    super::encode::run(work, facts, metadata, &frames, &outlet, shared)
                });
                Ok(Target::Video(sender))
            }
            Work::Audio(work) => {
                let (sender, packets) = sync_channel(AUDIO_QUEUE);
                let metadata = &self.metadata;
                spawn(scope, shared, "audio", move || {
                    super::audio::run(
                        work, &params, time_base, facts, metadata, &packets, &outlet, shared,
                    )
                });
                Ok(Target::Audio(SoundQueue::new(sender, &shared.first)))
            }
        }
    }
}
