//! What a job needs of this machine, checked before it is accepted.

use plexbeam_api::{JobSpec, Problem};

/// Says which codec, filter, option or packaging of a job this worker cannot do
/// ([`plexbeam_api::Kind::Unsupported`], with the field), without opening its inputs.
pub fn check(_spec: &JobSpec) -> Result<(), Problem> {
    Ok(())
}
