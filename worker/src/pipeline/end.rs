//! Where a title ends, and whether that is where its input says.

use super::{
    demux::{Route, Target},
    open::OpenInput,
};
use crate::libav::MediaType;
use plexbeam_api::{Kind, Problem};

/// Up to where packets were read, microseconds after the shift.
pub(super) struct Ends {
    /// Of pictures and sound.
    shown_us: i64,
    /// Of subtitles, which may reach far behind the title: VobSub and DVB have some without an end,
    /// which containers write as one of days.
    subtitles_us: i64,
}

impl Ends {
    /// Before the first packet.
    pub(super) fn new() -> Self {
        Ends {
            shown_us: i64::MIN,
            subtitles_us: i64::MIN,
        }
    }

    /// A packet was read.
    pub(super) fn packet(&mut self, media: MediaType, from_us: i64, lasts_us: i64) {
        let end = match media {
            MediaType::AVMEDIA_TYPE_SUBTITLE => &mut self.subtitles_us,
            _ => &mut self.shown_us,
        };
        *end = (*end).max(from_us.saturating_add(lasts_us));
    }

    fn last_us(&self) -> i64 {
        self.shown_us.max(self.subtitles_us)
    }

    /// No subtitle makes a title longer, unless no pictures and no sound are wanted.
    pub(super) fn title_us(&self, open: &OpenInput, routes: &[Route]) -> i64 {
        if routes.iter().any(|r| is_shown(open, r)) {
            self.shown_us
        } else {
            self.last_us()
        }
    }

    /// An input that ends long before its streams say is cut off: no silent short film.
    pub(super) fn check(&self, open: &OpenInput, routes: &[Route]) -> Result<(), Problem> {
        let is_burned = |r: &Route| matches!(r.to, Target::Burn(_));
        if open.inline || routes.iter().all(is_burned) {
            return Ok(());
        }
        let streams = &open.input.streams;
        let shown = routes.iter().any(|r| is_shown(open, r));
        let own = routes
            .iter()
            .filter(|r| !is_burned(r) && (!shown || is_shown(open, r)))
            .filter_map(|r| streams[r.index].duration_us)
            .max();
        let (expected, slack, end_us) = match (own, open.input.duration_us()) {
            (Some(own), _) => (own, (own / 50).max(3_000_000), self.title_us(open, routes)),
            // Another stream, which is not read here, may be the longest; so may be a subtitle.
            (None, Some(all)) => (all, (all / 20).max(10_000_000), self.last_us()),
            (None, None) => return Ok(()),
        };
        let end_us = if end_us == i64::MIN { 0 } else { end_us };
        // Matroska's lengths count from its zero, wherever the first packet lies.
        let zero_us = match open.input.format().starts_with("matroska") {
            true => open.input.start_us().min(0),
            false => open.input.start_us(),
        };
        let end_in_title = end_us + open.shift_us - zero_us;
        if end_in_title + slack < expected {
            return Err(Problem::new(
                Kind::BadInput,
                format!(
                    "input {} ends at {:.1} s although it says {:.1} s: it is cut off or damaged",
                    open.name,
                    end_in_title as f64 / 1e6,
                    expected as f64 / 1e6
                ),
            ));
        }
        Ok(())
    }
}

/// Pictures or sound.
fn is_shown(open: &OpenInput, route: &Route) -> bool {
    matches!(
        open.input.streams[route.index].params.media_type(),
        MediaType::AVMEDIA_TYPE_VIDEO | MediaType::AVMEDIA_TYPE_AUDIO
    )
}
