//! Proving in processes of their own: one for the processor and one per device, so that a driver
//! that aborts or hangs costs that device only.

use super::{DeviceKind, Probe, Wish, prove::Proof, version_text};
use plexbeam_api::{Kind, Problem, session::DeviceReport};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// Longest that proving the processor or one device may take.
const PROVE_LIMIT: Duration = Duration::from_secs(30);
/// Most devices of one kind that are tried.
const MAX_DEVICES: usize = 8;
/// Lines of standard error that tell how a process ended.
const LAST_LINES: usize = 3;

/// Tries what is wished for by `PROGRAM probe --only DEVICE --json`. Errors: not even the processor
/// could be tried.
pub async fn prove_apart(program: &Path, wish: &Wish) -> Result<Probe, Problem> {
    let software = prove_one(program, "software")
        .await
        .map_err(|what| Problem::new(Kind::Internal, format!("probing failed: {what}")))?;
    let mut probe = Probe {
        ffmpeg: version_text(),
        devices: vec![software.report],
        capabilities: Vec::new(),
    };
    let (kinds, address) = match wish {
        Wish::None => return Ok(probe),
        Wish::Auto => (DeviceKind::AUTO.to_vec(), None),
        Wish::Only(kind, address) => (vec![*kind], address.clone()),
    };
    for kind in kinds {
        let candidates = match &address {
            Some(address) => vec![address.clone()],
            None => candidates(kind),
        };
        if candidates.is_empty() {
            probe.devices.push(DeviceReport {
                name: kind.name().to_owned(),
                error: Some("there is no /dev/dri/renderD* on this machine".to_owned()),
                ..DeviceReport::default()
            });
        }
        for (at, address) in candidates.into_iter().enumerate() {
            let proof = match prove_one(program, &format!("{kind}:{address}")).await {
                Ok(proof) => proof,
                Err(what) => Proof::failed(kind, &address, what),
            };
            // Numbered devices are tried until there are no more.
            if at > 0 && !kind.has_node() && !proof.opened {
                break;
            }
            probe.devices.push(proof.report);
            probe
                .capabilities
                .extend(proof.capabilities.filter(|c| c.is_of_use()));
        }
    }
    Ok(probe)
}

/// Addresses that a kind may have here.
fn candidates(kind: DeviceKind) -> Vec<String> {
    if !kind.has_node() {
        // One software driver of Vulkan is enough; who wants another device names it.
        let count = if kind == DeviceKind::Vulkan {
            1
        } else {
            MAX_DEVICES
        };
        return (0..count).map(|n| n.to_string()).collect();
    }
    let nodes = std::fs::read_dir("/dev/dri").into_iter().flatten();
    let mut nodes: Vec<PathBuf> = nodes
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("renderD"))
        })
        .collect();
    nodes.sort();
    nodes.truncate(MAX_DEVICES);
    nodes
        .iter()
        .map(|node| node.to_string_lossy().into_owned())
        .collect()
}

async fn prove_one(program: &Path, only: &str) -> Result<Proof, String> {
    let run = Command::new(program)
        .args(["probe", "--json", "--only", only])
        .env_remove("PLEXBEAM_API_KEY")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PROVE_LIMIT, run)
        .await
        .map_err(|_| format!("no answer within {} s", PROVE_LIMIT.as_secs()))?
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        return Err(format!(
            "the probing process ended with {}: {}",
            output.status,
            last.join("; ")
        ));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("no answer: {error}"))
}
