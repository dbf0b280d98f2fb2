//! Who has the hook of an interface that cannot be attached to.

use aya::programs::{links::LinkType, loaded_links, loaded_programs};

use crate::netlink;

/// In words: the program, and how it is taken off.
pub(super) fn occupant(interface: &str, ifindex: u32) -> String {
    let programs = netlink::xdp_programs(ifindex).unwrap_or_default();
    let Some(&id) = programs.first() else {
        return format!("see `ip link show {interface}`, and stop what attached it first");
    };
    // Both want CAP_SYS_ADMIN; without it the number has to do.
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned));
    let link = loaded_links()
        .filter_map(Result::ok)
        .find(|link| link.program_id() == id && matches!(link.link_type(), Ok(LinkType::Xdp)))
        .map(|link| link.id());
    words(interface, id, name.as_deref(), link)
}

/// Without I/O.
fn words(interface: &str, id: u32, name: Option<&str>, link: Option<u32>) -> String {
    let which = match name {
        Some(name) => format!("\"{name}\", id {id}"),
        None => format!("id {id}; `bpftool prog show id {id}` as root tells its name"),
    };
    let remedy = match (name, link) {
        (Some("xdp_dispatcher"), _) => format!(
            "that is libxdp's dispatcher, which canary cannot share an interface with: \
             `xdp-loader unload {interface} --all`, or another interface"
        ),
        (Some(name), _) if name.starts_with("canary") => format!(
            "that is another canary's: stop that one and run `canary detach --bpffs DIRECTORY` \
             with its `bpffs`, or take {interface} out of one of the two configurations"
        ),
        (_, Some(link)) => format!(
            "a program holds it by link {link}: stop what attached it, or \
             `bpftool link detach id {link}`"
        ),
        _ => format!("stop what attached it, or `ip link set {interface} xdp off`"),
    };
    format!("{which}; {remedy}")
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn each_owner_has_its_remedy() {
        for (name, link, said) in [
            (Some("xdp_dispatcher"), Some(3), "xdp-loader unload eth0 --all"),
            (Some("canary"), Some(3), "canary detach --bpffs"),
            (Some("cil_xdp_entry"), Some(3), "bpftool link detach id 3"),
            (Some("other"), None, "ip link set eth0 xdp off"),
            (None, None, "bpftool prog show id 7"),
        ] {
            let words = words("eth0", 7, name, link);
            assert!(words.contains(said) && words.contains("id 7"), "{words}");
        }
    }
}
