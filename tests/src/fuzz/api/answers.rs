//! Answers as a client must be able to read them (RFC 9112), read anew.

/// The statuses that the server has reasons for.
const KNOWN: [u16; 14] = [100, 200, 400, 403, 404, 405, 408, 409, 413, 414, 417, 431, 500, 503];

/// The statuses of all answers in their order.
pub(super) fn answers(bytes: &[u8]) -> Result<Vec<u16>, String> {
    let mut rest = bytes;
    let mut statuses = Vec::new();
    while !rest.is_empty() {
        let end = find(rest, b"\r\n\r\n").ok_or("a head without an end")?;
        let head = str::from_utf8(&rest[..end]).map_err(|_| "a head that is no text")?;
        rest = &rest[end + 4..];
        let (status, body, after) = answer(head, rest)?;
        if status >= 400 {
            is_error(head, &body)?;
        }
        statuses.push(status);
        rest = after;
    }
    Ok(statuses)
}

fn answer<'a>(head: &str, rest: &'a [u8]) -> Result<(u16, Vec<u8>, &'a [u8]), String> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ');
    let version = words.next().unwrap_or_default();
    if !["HTTP/1.1", "HTTP/1.0"].contains(&version) {
        return Err(format!("{first:?} is no answer"));
    }
    let status = words.next().and_then(|status| status.parse().ok()).unwrap_or(0);
    if !KNOWN.contains(&status) {
        return Err(format!("nobody expects status {status}"));
    }
    let header = |name: &str| head_value(head, name);
    if header("transfer-encoding").is_some_and(|value| value == "chunked") {
        if begins_another(rest) {
            return Ok((status, Vec::new(), rest));
        }
        let (body, after) = chunks(rest)?;
        return Ok((status, body, after));
    }
    let Some(length) = header("content-length") else {
        // 1.0 ends an answer by hanging up.
        let endless = status == 200 && version == "HTTP/1.0";
        let (body, after) = if endless { (rest, &rest[rest.len()..]) } else { (&rest[..0], rest) };
        return Ok((status, body.to_vec(), after));
    };
    let length: usize = length.parse().map_err(|_| format!("{length:?} is no length"))?;
    // To HEAD.
    if begins_another(rest) {
        return Ok((status, Vec::new(), rest));
    }
    let body = rest.get(..length).ok_or("a body that is cut")?;
    Ok((status, body.to_vec(), &rest[length..]))
}

fn head_value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.split("\r\n").find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// No body of ours begins so.
fn begins_another(rest: &[u8]) -> bool {
    rest.is_empty() || rest.starts_with(b"HTTP/1.")
}

fn chunks(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut body = Vec::new();
    loop {
        let end = find(rest, b"\r\n").ok_or("a chunk without a length")?;
        let length = str::from_utf8(&rest[..end]).ok();
        let length = length.and_then(|length| usize::from_str_radix(length, 16).ok());
        let length = length.ok_or("a chunk without a length")?;
        let chunk = rest.get(end + 2..end + 2 + length).ok_or("a chunk that is cut")?;
        body.extend_from_slice(chunk);
        rest = &rest[end + 2 + length..];
        rest = rest.strip_prefix(b"\r\n").ok_or("a chunk without an end")?;
        if length == 0 {
            return Ok((body, rest));
        }
    }
}

/// A refusal of ours says why; hyper's own, of what is no HTTP, are empty.
fn is_error(head: &str, body: &[u8]) -> Result<(), String> {
    if body.is_empty() {
        return Ok(());
    }
    if head_value(head, "content-type") != Some("application/json") {
        return Err("a refusal that is no JSON".into());
    }
    let said: Result<canary::api::types::ApiError, _> = serde_json::from_slice(body);
    match said {
        Ok(said) if !said.error.is_empty() => Ok(()),
        _ => Err("a refusal without words".into()),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}
