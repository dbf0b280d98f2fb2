//! Clients with a track of their own: `[service.NAME.steer]`.

use std::{collections::HashMap, net::SocketAddr};

use canary_common::{Cidr, Track};
use toml::{Spanned, de::DeTable};

use super::{
    Steer,
    field::{Field, field},
    keys::{self, check_unknown},
    mistakes::Problems,
};

/// Networks in one file; more are for `canary steer SERVICE @FILE TRACK`.
const MOST: usize = 10_000;

pub(super) fn read_steer(
    parent: &DeTable<'_>,
    listen: Option<&Spanned<SocketAddr>>,
    problems: &mut Problems<'_>,
) -> Vec<Steer> {
    let Some(table) = field(parent, "steer").and_then(|field| field.table(problems)) else {
        return Vec::new();
    };
    check_unknown(table, &keys::STEER, problems);
    let mut all = Vec::new();
    let mut lines = HashMap::new();
    let lists = [
        ("canary", Track::Canary, false),
        ("always", Track::Canary, true),
        ("stable", Track::Stable, false),
    ];
    for (key, track, always) in lists {
        let Some(list) = field(table, key) else { continue };
        for element in list.list(problems, "\"192.0.2.0/24\"").unwrap_or_default() {
            let element = Field { key, value: element.get_ref(), at: element.span() };
            let Some(clients) = read_clients(&element, listen, problems) else { continue };
            if let Some(line) = lines.insert(clients, problems.line_of(&element.at)) {
                let message = format!("{clients} stands twice among the clients that are steered");
                let help = format!("remove it here or on line {line}; one network has one track");
                problems.add(element.at, message, help);
                continue;
            }
            all.push(Steer { clients, track, always });
        }
        if all.len() > MOST {
            let message = format!("more than {MOST} networks are steered by the file");
            let help = "put them into a file of their own, one a line, and say \
                        `canary steer SERVICE @FILE canary`";
            problems.add(list.at, message, help);
            break;
        }
    }
    all
}

fn read_clients(
    field: &Field<'_, '_>,
    listen: Option<&Spanned<SocketAddr>>,
    problems: &mut Problems<'_>,
) -> Option<Cidr> {
    let text = field.string(problems, "192.0.2.0/24")?;
    let clients: Cidr = match text.parse() {
        Ok(clients) => clients,
        Err(error) => {
            let message = format!("`{}`: \"{text}\" is no network: {error}", field.key);
            let help = "write a network as \"192.0.2.0/24\" or \"2001:db8::/32\", or an address";
            problems.add(field.at.clone(), message, help);
            return None;
        }
    };
    let listen = listen.map(|listen| *listen.get_ref());
    if listen.is_some_and(|listen| listen.is_ipv4() != clients.address().is_ipv4()) {
        let message = format!("{clients} is of the other address family than `listen`");
        problems.add(field.at.clone(), message, "steer it at the service of its own family");
        return None;
    }
    Some(clients)
}
