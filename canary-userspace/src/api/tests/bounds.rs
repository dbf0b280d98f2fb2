//! Who may use the socket, and those who misuse it.

use std::{
    io::{Read as _, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Directory, Served, bind_as, owner};
use crate::{
    api::{request::Request, types::Status},
    config::SocketAccess,
};

/// More than there is room for, none of whom asks: whoever does is answered.
#[test]
fn those_who_say_nothing_keep_nobody_out() {
    let served = Served::new("silent", owner());
    let socket = served.directory.socket();
    let head = b"PUT /v1/services/web/weight HTTP/1.1\r\nHost: c\r\nContent-Length: 9\r\n\
                 Content-Type: application/json\r\n\r\n{";
    for said in [&b""[..], b"GET /v1/sta", b"\r\n", head] {
        let mut crowd = Vec::new();
        for _ in 0..600 {
            let mut stream = UnixStream::connect(&socket).unwrap();
            // One that had to go already.
            stream.write_all(said).ok();
            crowd.push(stream);
        }
        let asked = Instant::now();
        assert_eq!(served.client().get::<Status>("/v1/status").unwrap().version, "all");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
}

/// An answer without an end has a place of its own, and there are few.
#[test]
fn followers_are_few() {
    let mut senders = Vec::new();
    let served = Served::new("followers", move |request| {
        let Request::Follow { reply, .. } = request else { panic!("{request:?}") };
        let (sender, receiver) = mpsc::channel(1);
        senders.push(sender);
        reply.send(Ok(receiver)).unwrap();
    });
    let get = b"GET /v1/services/web/flows/follow HTTP/1.1\r\nHost: c\r\n\r\n";
    let follow = || {
        let mut stream = UnixStream::connect(served.directory.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(get).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        (stream, String::from_utf8_lossy(&answer).into_owned())
    };
    let streams: Vec<_> = (0..8).map(|_| follow()).collect();
    assert!(streams.iter().all(|(_, answer)| answer.ends_with("200")));
    assert!(follow().1.ends_with("503"));
    drop(streams);
    // Once the server has seen that they are gone.
    std::thread::sleep(Duration::from_millis(200));
    assert!(follow().1.ends_with("200"));
}

#[test]
fn mode_and_group_are_what_is_asked_for() {
    let directory = Directory::new("group");
    let path = directory.socket();
    let none = SocketAccess { group: Some("no-such-group-here".to_owned()), ..Default::default() };
    let said = bind_as(&path, &none).unwrap_err().to_string();
    assert!(said.contains("`socket_group`") && said.contains("groupadd"), "{said}");
    assert!(!path.exists(), "it was refused");
    let own = std::fs::metadata(&directory.0).unwrap().gid().to_string();
    for (read_group, configured_mode, mode) in
        [(None, None, 0o660), (None, Some(0o600), 0o600), (Some("0".to_owned()), None, 0o666)]
    {
        let access = SocketAccess { group: Some(own.clone()), read_group, configured_mode };
        drop(bind_as(&path, &access).unwrap());
        let file = std::fs::metadata(&path).unwrap();
        assert_eq!((file.mode() & 0o777, file.gid().to_string()), (mode, own.clone()));
    }
}

#[test]
fn garbage_does_not_stop_the_server() {
    let served = Served::new("garbage", owner());
    for garbage in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", &[0; 100_000]] {
        let answer = served.raw_cut(garbage);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let endless = format!("GET /v1/status HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(!served.raw_cut(endless.as_bytes()).contains(" 200 "));
    assert_eq!(served.client().get::<Status>("/v1/status").unwrap().version, "all");
}
