//! Loaded programs that wait for their next test. The verifier's walk takes
//! seconds where the machine is emulated, and most tests want the same program:
//! there, the one that was loaded for the first of them is given to the next,
//! with nothing left in its maps.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use canary::dataplane::Dataplane;
use canary_common::{Bucket, Flow, FlowKey};

/// Set where it is to be so: in a guest that ends with its tests, as pins are
/// left when the process ends.
pub const VARIABLE: &str = "CANARY_TESTS_SHARE";

/// More flows than this are loaded anew: larger tables take longer to clear.
const MOST_FLOWS: u32 = 4096;

/// What makes two loaded programs the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) flows: u32,
    pub(crate) log: bool,
    pub(crate) signals: u16,
}

/// A loaded program and where its maps are pinned.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) plane: Dataplane,
    pub(crate) bpffs: PathBuf,
}

static IDLE: Mutex<Vec<(Kind, Loaded)>> = Mutex::new(Vec::new());

/// One of this kind that nobody uses.
pub(crate) fn take(kind: Kind) -> Option<Loaded> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let at = idle.iter().position(|(other, _)| *other == kind)?;
    Some(idle.swap_remove(at).1)
}

/// Keeps it for the next, or gives it back to be taken apart. Its directory and
/// weights must be empty.
pub(crate) fn give(kind: Kind, loaded: Loaded) -> Option<Loaded> {
    let wanted = std::env::var_os(VARIABLE).is_some()
        && kind.flows <= MOST_FLOWS
        && !std::thread::panicking()
        && clear(&loaded.bpffs).is_ok_and(|unattached| unattached);
    if !wanted {
        return Some(loaded);
    }
    IDLE.lock().unwrap_or_else(PoisonError::into_inner).push((kind, loaded));
    None
}

/// Forgets all flows, and which interfaces may be used; false where the program
/// is attached somewhere. Cells are cleared by who makes backends; marks of flows
/// in the overflow map may be too many, never too few.
fn clear(bpffs: &Path) -> Result<bool> {
    for entry in fs::read_dir(bpffs)? {
        if entry?.file_name().to_string_lossy().starts_with("link_") {
            return Ok(false);
        }
    }
    let pinned =
        |name: &str| MapData::from_pin(bpffs.join(name)).with_context(|| format!("opening {name}"));
    let mut flows: Array<_, Bucket> = Map::Array(pinned("FLOWS")?).try_into()?;
    for bucket in 0..flows.len() {
        flows.set(bucket, Bucket::default(), 0)?;
    }
    let mut overflow: HashMap<_, FlowKey, Flow> =
        Map::LruHashMap(pinned("OVERFLOW")?).try_into()?;
    for key in overflow.keys().collect::<Result<Vec<_>, _>>()? {
        overflow.remove(&key)?;
    }
    let interfaces = Map::DevMapHash(pinned("INTERFACES")?);
    let mut interfaces = aya::maps::xdp::DevMapHash::try_from(interfaces)?;
    // Numbers in a namespace that a test made are small.
    for ifindex in 1..64 {
        // Most are not there.
        interfaces.remove(ifindex).ok();
    }
    Ok(true)
}
