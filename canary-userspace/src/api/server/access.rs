//! Who may do what on the Unix socket. The kernel says who is at its other
//! end; the file's mode says who gets that far.

use std::{os::fd::AsFd, time::Duration};

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};

use super::{caller::Caller, error};
use crate::{api::request::Peer, names};

/// Names come from the host's directory, which may be far away and slow: a
/// change does not wait for it.
const NAMED_WITHIN: Duration = Duration::from_secs(1);
/// Groups of one process that are looked at; Linux allows it 65,536.
const MOST_GROUPS: usize = 65_536;

/// Who is at the other end, by `SO_PEERCRED` and `SO_PEERGROUPS`: as the
/// process was when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) pid: Option<i32>,
}

impl Credentials {
    pub(super) fn of(stream: &tokio::net::UnixStream) -> Self {
        // Nobody's where the kernel does not tell.
        let nobody = Self { uid: u32::MAX, gid: u32::MAX, groups: Vec::new(), pid: None };
        stream.peer_cred().map_or(nobody, |peer| Self {
            uid: peer.uid(),
            gid: peer.gid(),
            groups: groups_of(stream),
            pid: peer.pid(),
        })
    }

    fn is_in(&self, group: &Group) -> bool {
        self.gid == group.gid || self.groups.contains(&group.gid)
    }

    /// With the names that people know them by.
    pub(super) async fn named(&self) -> Peer {
        let (uid, pid) = (self.uid, self.pid);
        let names = tokio::task::spawn_blocking(move || {
            (names::user_name(uid), pid.and_then(names::command_of))
        });
        let (user, command) = match tokio::time::timeout(NAMED_WITHIN, names).await {
            Ok(Ok(names)) => names,
            _ => (None, None),
        };
        Peer { user, uid, pid, command }
    }
}

/// The process's groups beside its first.
fn groups_of(stream: &tokio::net::UnixStream) -> Vec<u32> {
    use std::os::fd::AsRawFd as _;
    let socket = stream.as_fd();
    let mut groups = vec![0_u32; 32];
    loop {
        let mut bytes = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the kernel writes `bytes` bytes at most, and says how many.
        let failed = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let there = bytes as usize / size_of::<u32>();
        if failed == 0 {
            groups.truncate(there);
            return groups;
        }
        // ERANGE: it has said how much room they need.
        if there <= groups.len() || there > MOST_GROUPS {
            return Vec::new();
        }
        groups.resize(there, 0);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) gid: u32,
    pub(super) name: String,
}

impl Group {
    pub(super) fn of(gid: u32) -> Self {
        Self { gid, name: names::group_name(gid).unwrap_or_else(|| gid.to_string()) }
    }
}

/// Who may do what.
#[derive(Clone, Debug)]
pub struct Access {
    /// The daemon's own user.
    uid: u32,
    /// May do everything, as root and the daemon's user.
    all: Group,
    /// May only ask. Without it, whoever the socket's mode lets in.
    readers: Option<Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    Nothing,
    Ask,
    Change,
}

impl Access {
    pub(super) fn new(all: Group, readers: Option<Group>) -> Self {
        // SAFETY: geteuid has no preconditions and cannot fail.
        let uid = unsafe { libc::geteuid() };
        Self { uid, all, readers }
    }

    /// The process's own user and group may do everything, others ask.
    #[must_use]
    pub fn own() -> Self {
        // SAFETY: getegid has no preconditions and cannot fail.
        Self::new(Group::of(unsafe { libc::getegid() }), None)
    }

    fn right(&self, who: &Credentials) -> Right {
        if who.uid == 0 || who.uid == self.uid || who.is_in(&self.all) {
            return Right::Change;
        }
        match &self.readers {
            Some(readers) if !who.is_in(readers) => Right::Nothing,
            _ if who.uid == u32::MAX => Right::Nothing,
            _ => Right::Ask,
        }
    }

    /// Why not, and who may.
    fn refusal(&self, who: &Peer, right: Right) -> String {
        let all = &self.all.name;
        let who = who.whose();
        match (right, &self.readers) {
            (Right::Nothing, Some(readers)) => format!(
                "{who} may not use this socket: root and members of group {all} may, and members \
                 of group {} may ask (new members log in again first)",
                readers.name
            ),
            _ => format!(
                "{who} may ask but change nothing: root and members of group {all} may; try again \
                 with sudo"
            ),
        }
    }
}

/// Whether who asks may change things, too.
#[derive(Clone, Copy, Debug)]
pub(super) struct MayChange(pub(super) bool);

/// Whether a request changes nothing.
pub(super) fn asks(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Lets those through who may.
pub(super) async fn permitted(
    State(access): State<Access>,
    mut request: Request,
    next: Next,
) -> Response {
    let needed = if asks(request.method()) { Right::Ask } else { Right::Change };
    let caller = request.extensions().get::<Caller>().cloned();
    let Some(credentials) = caller.and_then(|caller| caller.credentials) else {
        return error(StatusCode::FORBIDDEN, "nobody is known at the other end of this socket");
    };
    let right = access.right(&credentials);
    if right >= needed {
        request.extensions_mut().insert(MayChange(right == Right::Change));
        return next.run(request).await;
    }
    let who = credentials.named().await;
    let refusal = access.refusal(&who, right);
    tracing::warn!("refused {who}: {} {}", request.method(), request.uri().path());
    error(StatusCode::FORBIDDEN, refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(readers: bool) -> Access {
        let group = |gid, name: &str| Group { gid, name: name.to_owned() };
        Access { uid: 900, all: group(10, "canary"), readers: readers.then(|| group(20, "watch")) }
    }

    fn who(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
        Credentials { uid, gid, groups: groups.to_vec(), pid: None }
    }

    #[test]
    fn rights_follow_user_and_groups() {
        use Right::{Ask, Change, Nothing};
        for (who, with_readers, without) in [
            (who(0, 0, &[]), Change, Change),
            (who(0, 20, &[20]), Change, Change),
            (who(900, 1, &[]), Change, Change),
            (who(1000, 10, &[]), Change, Change),
            (who(1000, 1, &[5, 10]), Change, Change),
            (who(1000, 10, &[20]), Change, Change),
            (who(1000, 20, &[]), Ask, Ask),
            (who(1000, 1, &[20]), Ask, Ask),
            (who(1000, 1, &[]), Nothing, Ask),
            (who(u32::MAX, u32::MAX, &[]), Nothing, Nothing),
        ] {
            assert_eq!(access(true).right(&who), with_readers, "{who:?}");
            assert_eq!(access(false).right(&who), without, "{who:?}");
        }
    }

    #[test]
    fn a_refusal_says_who_may() {
        let who = Peer { user: Some("carol".to_owned()), uid: 1002, pid: None, command: None };
        let said = access(true).refusal(&who, Right::Ask);
        assert!(said.starts_with("carol (uid 1002) may ask but change nothing: root"), "{said}");
        assert!(said.contains("group canary"), "{said}");
        let said = access(true).refusal(&who, Right::Nothing);
        assert!(said.contains("may not use") && said.contains("group watch may ask"), "{said}");
    }

    #[test]
    fn only_asking_asks() {
        assert!(asks(&Method::GET) && asks(&Method::HEAD));
        for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            assert!(!asks(&method), "{method}");
        }
    }
}
