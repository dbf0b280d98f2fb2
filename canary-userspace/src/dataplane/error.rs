use std::{error::Error, path::PathBuf};

/// What went wrong with the data plane.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// An operation on a map, program or link, and the kernel's or aya's word.
    #[error("{doing}: {reason}")]
    Operation { doing: String, reason: Box<dyn Error + Send + Sync> },
    #[error("the eBPF object has no program {0}")]
    NoProgram(String),
    #[error("the eBPF object has no map {0}, or one of another type")]
    NoMap(&'static str),
    #[error(
        "{path} holds maps of layout {found}, this canary has layout {ours} and cannot carry their \
         connections over (nothing was changed, and traffic goes on); either run the canary version \
         that made them, or end it: with that version `canary detach --drain`, where it has it, \
         else `canary detach`, which cuts live connections; then start this one"
    )]
    Layout { path: PathBuf, found: u32, ours: u32 },
    #[error(
        "the flow table in {path} has {live} live connections (and room for {now}), more than \
         `flows` asks room for ({room}); set `flows` to {live} at least (nothing was changed, and \
         traffic goes on), or start again when there are fewer"
    )]
    TooSmall { path: PathBuf, live: u64, room: u64, now: u64 },
    #[error(
        "{path} is not on a bpffs; mount one (`mount -t bpf bpf /sys/fs/bpf`), or set `bpffs` to \
         a directory on one"
    )]
    NotBpffs { path: PathBuf },
    #[error(
        "{path} is the root of a bpffs, which is not canary's alone; set `bpffs` to a directory \
         below it"
    )]
    IsRoot { path: PathBuf },
    #[error(
        "{path} is in use by a canary that runs{holder}; stop that one first, or talk to it \
         (`--socket`), or use another directory (`bpffs` of the configuration)"
    )]
    InUse { path: PathBuf, holder: String },
    #[error("interface {0} does not exist")]
    NoInterface(String),
    #[error("interface {interface} already has an XDP program, {occupant}")]
    Busy { interface: String, occupant: String },
    #[error(
        "canary cannot attach to {interface} in native mode ({refusal}); set `xdp_mode = \"auto\"` \
         or `xdp_mode = \"generic\"`, which is slower"
    )]
    NoNative { interface: String, refusal: Box<DataplaneError> },
}

/// Adds what was being done to an error.
pub(super) trait Context<T> {
    fn context<D: Into<String>>(self, doing: impl FnOnce() -> D) -> Result<T, DataplaneError>;
}

impl<T, E: Error + Send + Sync + 'static> Context<T> for Result<T, E> {
    fn context<D: Into<String>>(self, doing: impl FnOnce() -> D) -> Result<T, DataplaneError> {
        self.map_err(|error| {
            // The whole chain: aya's outer errors say little.
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(inner) = source {
                // Some of them repeat their source in their own text.
                let said = inner.to_string();
                if !text.ends_with(&said) {
                    text = format!("{text}: {said}");
                }
                source = inner.source();
            }
            DataplaneError::Operation { doing: doing().into(), reason: text.into() }
        })
    }
}
