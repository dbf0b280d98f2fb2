//! The Unix socket's place in the file system, and who may reach it there.

use std::{
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

use super::access::{Access, Group};
use crate::{config::SocketAccess, names};

/// The socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "another canary daemon answers on {0}; stop it first, or give this one another `socket`"
    )]
    Taken(PathBuf),
    #[error("{0} is in the way and no socket; remove it, or give `socket` another path")]
    NoSocket(PathBuf),
    #[error(
        "this host has no group {name:?} (`{key}`); make it with `groupadd {name}`, or name another"
    )]
    NoGroup { key: &'static str, name: String },
    #[error(
        "giving {path} to group {group:?} (`socket_group`): {source}; start the daemon in that \
         group, or with CAP_CHOWN"
    )]
    Group { path: PathBuf, group: String, source: io::Error },
    #[error("binding {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A socket, and who may do what on it.
#[derive(Debug)]
pub struct Bound {
    pub listener: UnixListener,
    pub access: Access,
}

/// Binds the socket; one that nobody listens on any more is replaced. Mode and
/// group are those of `wanted`.
///
/// # Errors
/// Where somebody listens there, the path cannot be had, or there is no such
/// group: nothing has been changed then.
pub fn bind_unix(path: &Path, wanted: &SocketAccess) -> Result<Bound, BindError> {
    let io = |source| BindError::Io { path: path.to_owned(), source };
    // Before anything is done: a name may be wrong.
    let group = group("socket_group", wanted.group.as_deref()).map_err(|e| e.at(path))?;
    let readers =
        self::group("read_group", wanted.read_group.as_deref()).map_err(|e| e.at(path))?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(io)?;
    }
    make_way(path)?;
    let listener = UnixListener::bind(path).map_err(io)?;
    let owner = std::fs::metadata(path).map_err(io)?.gid();
    // Without CAP_CHOWN one may still give it to a group of one's own.
    if let Some(group) = group.as_ref().filter(|group| group.gid != owner) {
        chown(path, None, Some(group.gid)).map_err(|source| {
            std::fs::remove_file(path).ok();
            BindError::Group { path: path.to_owned(), group: group.name.clone(), source }
        })?;
    }
    let permissions = std::fs::Permissions::from_mode(wanted.mode());
    std::fs::set_permissions(path, permissions).map_err(io)?;
    let group = group.unwrap_or_else(|| Group::of(owner));
    Ok(Bound { listener, access: Access::new(group, readers) })
}

/// Takes away a socket that a daemon left behind.
fn make_way(path: &Path) -> Result<(), BindError> {
    let io = |source| BindError::Io { path: path.to_owned(), source };
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::Taken(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            // Linux refuses alike where the path is no socket at all: a file
            // named by mistake must not be lost.
            if !std::fs::symlink_metadata(path).map_err(io)?.file_type().is_socket() {
                return Err(BindError::NoSocket(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(io)
        }
        Err(_) => Ok(()),
    }
}

/// Why a group of the configuration is not to be had.
enum GroupError {
    None { key: &'static str, name: String },
    Io(io::Error),
}

impl GroupError {
    fn at(self, path: &Path) -> BindError {
        match self {
            Self::None { key, name } => BindError::NoGroup { key, name },
            Self::Io(source) => BindError::Io { path: path.to_owned(), source },
        }
    }
}

fn group(key: &'static str, name: Option<&str>) -> Result<Option<Group>, GroupError> {
    let Some(name) = name else { return Ok(None) };
    let found = names::group_id(name).map_err(GroupError::Io)?;
    let gid = found.ok_or_else(|| GroupError::None { key, name: name.to_owned() })?;
    Ok(Some(Group { gid, name: name.to_owned() }))
}
