//! What the settings keep on this host although a worker could do it.

use crate::argv::CommandLine;
use crate::config::Work;

/// The first kind of work of this line that is to stay.
pub(super) fn kept(line: &CommandLine, keep: &[Work]) -> Option<Work> {
    keep.iter().copied().find(|work| has(line, *work))
}

fn has(line: &CommandLine, work: Work) -> bool {
    match work {
        Work::Everything => true,
        Work::ToneMapping => filter(line, "tonemap"),
        Work::BurnedText => line.has("map_inlineass") || filter(line, "inlineass"),
        Work::BurnedPictures => filter(line, "overlay"),
        // A `nullfile` only makes the burned text be decoded.
        Work::SideSubtitles => line.outputs().skip(1).any(|(_, name)| name != "nullfile"),
    }
}

/// True when a filter's name begins so. A quoted text that looks like one counts, too: what is
/// in doubt stays.
fn filter(line: &CommandLine, name: &str) -> bool {
    line.options()
        .filter(|opt| opt.name() == "filter_complex")
        .filter_map(|opt| opt.text())
        .flat_map(|graph| graph.split([',', ';', ']']))
        .any(|text| text.trim_start().starts_with(name))
}
