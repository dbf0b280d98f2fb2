//! Attaching to interfaces, by links that outlive the daemon.

use std::{path::Path, time::Instant};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};

use super::{
    Dataplane, bpffs,
    error::{Context as _, DataplaneError},
    occupied::occupant,
};
use crate::config;

/// The program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// As the configuration calls it.
    pub interface: String,
    pub ifindex: u32,
    /// In the driver; else in the kernel's generic hook.
    pub native: bool,
}

impl Attachment {
    /// What it is called now, where that is another name.
    pub fn renamed(&self) -> Option<String> {
        name_of(self.ifindex).filter(|name| *name != self.interface)
    }
}

impl Dataplane {
    /// Attaches the program, or puts it in place of the one behind a link that
    /// an earlier daemon pinned, without a packet in between unhandled.
    ///
    /// # Errors
    /// No such interface, another program on it, or the kernel's refusal.
    pub fn attach(
        &mut self,
        interface: &str,
        mode: config::XdpMode,
    ) -> Result<Attachment, DataplaneError> {
        if let Some((attachment, _)) = self.links.iter().find(|(a, _)| a.interface == interface) {
            return Ok(attachment.clone());
        }
        let ifindex = ifindex_of(interface).or_else(|missing| {
            // Renamed while no daemon ran: what was attached goes on there.
            self.pinned_elsewhere(interface).ok_or(missing)
        })?;
        let (native, link) = match self.adopt(interface, ifindex, mode)? {
            Some(adopted) => adopted,
            None => self.attach_new(interface, ifindex, mode)?,
        };
        let attachment = Attachment { interface: interface.to_owned(), ifindex, native };
        self.links.push((attachment.clone(), link));
        Ok(attachment)
    }

    /// Lets go of interfaces that are gone, and of those that were renamed where
    /// another one has their name now; which these were. Others that were
    /// renamed stay.
    ///
    /// # Errors
    /// Where a link's pin cannot be removed.
    pub fn release_gone(&mut self) -> Result<Vec<Attachment>, DataplaneError> {
        let is_gone = |attachment: &Attachment| {
            let now = name_of(attachment.ifindex);
            let namesake = ifindex_of(&attachment.interface).ok();
            now.is_none() || namesake.is_some_and(|ifindex| ifindex != attachment.ifindex)
        };
        let gone: Vec<Attachment> =
            self.attachments().filter(|attachment| is_gone(attachment)).cloned().collect();
        for attachment in &gone {
            self.detach(&attachment.interface)?;
        }
        Ok(gone)
    }

    /// The interface behind a pinned link, by whatever name it goes now.
    fn pinned_elsewhere(&self, interface: &str) -> Option<u32> {
        [true, false].into_iter().find_map(|native| {
            let path = bpffs::link_path(&self.bpffs, interface, native);
            let link = FdLink::from(PinnedLink::from_pin(path).ok()?);
            link_ifindex(&link).filter(|ifindex| *ifindex != 0 && name_of(*ifindex).is_some())
        })
    }

    /// Takes the program off an interface. Nothing where it is not on it.
    ///
    /// # Errors
    /// Where the link's pin cannot be removed.
    pub fn detach(&mut self, interface: &str) -> Result<(), DataplaneError> {
        let Some(at) = self.links.iter().position(|(a, _)| a.interface == interface) else {
            return Ok(());
        };
        let (_, link) = self.links.remove(at);
        // The last reference: the kernel detaches the program.
        drop(link.unpin().context(|| format!("detaching from {interface}"))?);
        Ok(())
    }

    /// Detaches everywhere and removes all maps.
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn remove_all(self) -> Result<Vec<String>, DataplaneError> {
        bpffs::remove_pins(&self.bpffs)
    }

    /// What the program is attached to.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.links.iter().map(|(attachment, _)| attachment)
    }

    fn main_program(&mut self) -> Result<&mut Xdp, DataplaneError> {
        let name = self.program;
        let program = self.ebpf.program_mut(name);
        let program = program.ok_or_else(|| DataplaneError::NoProgram(name.to_owned()))?;
        program.try_into().context(|| format!("program {name}"))
    }

    fn adopt(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: config::XdpMode,
    ) -> Result<Option<(bool, PinnedLink)>, DataplaneError> {
        for native in [true, false] {
            let path = bpffs::link_path(&self.bpffs, interface, native);
            if !path.exists() {
                continue;
            }
            if let Some(link) = self.take_over(&path, ifindex)? {
                tracing::info!("took over the program on {interface}");
                return if is_wanted(mode, native) {
                    Ok(Some((native, link)))
                } else {
                    self.exchange(interface, ifindex, mode, link).map(Some)
                };
            }
            // The interface it was on is gone; one of the same name is not it.
            std::fs::remove_file(&path).context(|| format!("removing {}", path.display()))?;
        }
        Ok(None)
    }

    /// Brings the program on an interface to another mode. For a moment the
    /// interface has none, and its packets go to the kernel.
    ///
    /// # Errors
    /// Where it cannot have that mode: it has the former one again then.
    pub fn set_mode(
        &mut self,
        interface: &str,
        mode: config::XdpMode,
    ) -> Result<(), DataplaneError> {
        let is_other =
            |(a, _): &(Attachment, _)| a.interface == interface && !is_wanted(mode, a.native);
        let Some(at) = self.links.iter().position(is_other) else { return Ok(()) };
        let (attachment, link) = self.links.remove(at);
        let ifindex = attachment.ifindex;
        match self.exchange(interface, ifindex, mode, link) {
            Ok((native, link)) => {
                self.links.push((Attachment { native, ..attachment }, link));
                Ok(())
            }
            Err(error) => {
                // It is attached as before, if that was possible.
                if let Ok(Some((native, link))) =
                    self.adopt(interface, ifindex, config::XdpMode::Auto)
                {
                    self.links.push((Attachment { native, ..attachment }, link));
                }
                Err(error)
            }
        }
    }

    /// A link keeps its mode, and an interface has one mode at a time: the link
    /// goes, and one of the other mode comes. Where that fails it is attached as
    /// before, and pinned.
    fn exchange(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: config::XdpMode,
        link: PinnedLink,
    ) -> Result<(bool, PinnedLink), DataplaneError> {
        let native = mode == config::XdpMode::Native;
        let path = bpffs::link_path(&self.bpffs, interface, !native);
        let begun = Instant::now();
        // By this call it is detached when it returns; by the pin's removal
        // alone some time after.
        bpffs::detach_link(&path).context(|| format!("detaching from {interface}"))?;
        let exchanged = self.attach_new(interface, ifindex, mode);
        let bare = begun.elapsed();
        drop(link.unpin().context(|| format!("detaching from {interface}"))?);
        match exchanged {
            Ok(attached) => {
                let (from, to) = if native { ("generic", "native") } else { ("native", "generic") };
                tracing::warn!(
                    "{interface} went from {from} to {to} XDP; for {bare:?} its packets went to \
                     the kernel"
                );
                Ok(attached)
            }
            Err(error) => {
                self.attach_as(interface, ifindex, !native).map(drop)?;
                Err(error)
            }
        }
    }

    /// `None`: the link leads nowhere any more, or to another interface.
    fn take_over(
        &mut self,
        path: &Path,
        ifindex: u32,
    ) -> Result<Option<PinnedLink>, DataplaneError> {
        let doing = || format!("taking over {}", path.display());
        let pinned = PinnedLink::from_pin(path).context(doing)?;
        let link = FdLink::from(pinned);
        if link_ifindex(&link) != Some(ifindex) {
            return Ok(None);
        }
        let link = XdpLink::try_from(link).context(doing)?;
        let program = self.main_program()?;
        let id = program.attach_to_link(link).context(doing)?;
        // Held only to keep the new program's link out of its own list: the pin
        // at `path` stays as it is, and so does the attachment.
        let link = program.take_link(id).context(doing)?;
        drop(link);
        PinnedLink::from_pin(path).map(Some).context(doing)
    }

    fn attach_new(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: config::XdpMode,
    ) -> Result<(bool, PinnedLink), DataplaneError> {
        let tries: &[bool] = match mode {
            config::XdpMode::Auto => &[true, false],
            config::XdpMode::Native => &[true],
            config::XdpMode::Generic => &[false],
        };
        let mut refusal = None;
        for &native in tries {
            match self.attach_as(interface, ifindex, native) {
                Ok(link) => {
                    if let Some(refusal) = refusal {
                        tracing::warn!(
                            "{interface} has generic XDP, which is slower and sees packets late: {refusal}"
                        );
                    }
                    return Ok((native, link));
                }
                Err(busy @ DataplaneError::Busy { .. }) => return Err(busy),
                Err(error) => refusal = Some(error),
            }
        }
        let interface = interface.to_owned();
        Err(match (refusal, mode) {
            (Some(refusal), config::XdpMode::Native) => {
                DataplaneError::NoNative { interface, refusal: Box::new(refusal) }
            }
            (Some(refusal), _) => refusal,
            (None, _) => DataplaneError::NoInterface(interface),
        })
    }

    fn attach_as(
        &mut self,
        interface: &str,
        ifindex: u32,
        native: bool,
    ) -> Result<PinnedLink, DataplaneError> {
        let mode = if native { XdpMode::Driver } else { XdpMode::Skb };
        let path = bpffs::link_path(&self.bpffs, interface, native);
        let doing = || format!("attaching to {interface}");
        let program = self.main_program()?;
        let id = program.attach_to_if_index(ifindex, mode).map_err(|error| {
            if is_busy(&error) {
                let occupant = occupant(interface, ifindex);
                return DataplaneError::Busy { interface: interface.to_owned(), occupant };
            }
            match Err::<(), _>(error).context(doing) {
                Err(error) => error,
                Ok(()) => DataplaneError::NoInterface(interface.to_owned()),
            }
        })?;
        let link = program.take_link(id).context(doing)?;
        let link = FdLink::try_from(link).context(doing)?;
        link.pin(&path).context(|| format!("pinning {}", path.display()))
    }
}

/// Whether a mode that is asked for is had; `auto` takes what there is.
const fn is_wanted(mode: config::XdpMode, native: bool) -> bool {
    match mode {
        config::XdpMode::Auto => true,
        config::XdpMode::Native => native,
        config::XdpMode::Generic => !native,
    }
}

/// EBUSY: another program; EEXIST: the same in another mode.
fn is_busy(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(syscall) = error else { return false };
    matches!(syscall.io_error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn ifindex_of(interface: &str) -> Result<u32, DataplaneError> {
    let missing = || DataplaneError::NoInterface(interface.to_owned());
    let name = std::ffi::CString::new(interface).map_err(|_| missing())?;
    // SAFETY: a terminated string.
    let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if ifindex == 0 { Err(missing()) } else { Ok(ifindex) }
}

/// What an interface is called now; `None` where it is gone, or in another
/// network namespace.
fn name_of(ifindex: u32) -> Option<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: room for the longest name.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    let name = std::ffi::CStr::from_bytes_until_nul(&name).ok()?;
    Some(name.to_string_lossy().into_owned())
}

/// The interface behind an XDP link; `Some(0)` where it is gone. The kernel
/// tells it in the descriptor's fdinfo (`bpf_xdp_link_show_fdinfo`); aya keeps
/// the descriptor to itself, so it is found by the link's id.
fn link_ifindex(link: &FdLink) -> Option<u32> {
    let id = link.info().ok()?.id().to_string();
    let field = |info: &str, name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().to_owned())
    };
    std::fs::read_dir("/proc/self/fdinfo")
        .ok()?
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .find(|info| field(info, "link_id:").as_ref() == Some(&id))
        .and_then(|info| field(&info, "ifindex:")?.parse().ok())
}
