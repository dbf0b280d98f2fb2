//! The examples of the repository and the blocks of the reference are
//! configurations, and reading a file of the disk works.

use std::{fs, path::Path};

use super::good;
use crate::config::{LoadError, Mistakes, load, parse};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn every_example_parses() {
    let mut names = Vec::new();
    for entry in fs::read_dir(repository().join("config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            good(&fs::read_to_string(&path).unwrap());
            names.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    names.sort();
    let expected =
        ["full.toml", "ipv6.toml", "rollout.toml", "shortest.toml", "udp-dns.toml", "weights.toml"];
    assert_eq!(names, expected);
}

/// The text of the blocks in the reference whose fence begins with `fence`.
fn blocks(fence: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == fence {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(block.join("\n"));
        }
    }
    blocks
}

#[test]
fn whole_files_in_the_reference_parse() {
    let files = blocks("```toml file");
    assert!(!files.is_empty());
    for file in files {
        good(&file);
    }
}

/// Pieces of a service, and pieces of the top, say which they are.
#[test]
fn pieces_in_the_reference_parse() {
    let top = blocks("```toml top");
    let service = blocks("```toml service");
    assert!(!top.is_empty() && !service.is_empty());
    for piece in top {
        good(&format!("{piece}\n[service.t]\nlisten = '192.0.2.1:9'\nstable = ['192.0.2.2:9']"));
    }
    for piece in service {
        good(&format!("interfaces = ['eth0']\n[service.t]\n{piece}"));
    }
    assert!(blocks("```toml").is_empty(), "a block that no test reads");
}

/// The reference has a row for each key, with the default the code has.
#[test]
fn every_key_is_in_the_reference() {
    let text = fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    for kind in crate::config::keys::KINDS {
        for key in kind.keys {
            let row = format!("| `{key}` |");
            let heading = format!("[{key}");
            assert!(text.contains(&row) || text.contains(&heading), "no word on `{key}`");
        }
    }
}

/// The commented example names every key.
#[test]
fn every_key_is_in_the_full_example() {
    let text = fs::read_to_string(repository().join("config/full.toml")).unwrap();
    for kind in crate::config::keys::KINDS {
        for key in kind.keys {
            let told = [format!("{key} = "), format!("[{key}"), format!(".{key}]")];
            assert!(told.iter().any(|told| text.contains(told)), "no word on `{key}`");
        }
    }
}

#[test]
fn files_of_the_disk() {
    // The loopback interface is on every host.
    let text = super::SHORT.replace("eth0", "lo");
    let path = std::env::temp_dir().join(format!("canary-config-{}.toml", std::process::id()));
    fs::write(&path, &text).unwrap();
    assert_eq!(load(&path).unwrap(), good(&text));

    // What is wrong with the text and with the host comes together.
    fs::write(&path, super::SHORT.replace("eth0", "no-such-0") + "weight = 101\n").unwrap();
    let Err(LoadError::Mistakes(mistakes)) = load(&path) else { panic!("was accepted") };
    let [host, weight] = mistakes.mistakes.as_slice() else { panic!("{mistakes}") };
    assert_eq!((host.line, host.column, host.length), (1, 15, 11));
    assert_eq!((weight.line, weight.column), (5, 10));

    fs::write(&path, b"# caf\xe9\n").unwrap();
    let Err(LoadError::Mistakes(mistakes)) = load(&path) else { panic!("was accepted") };
    assert_eq!((mistakes.mistakes[0].line, mistakes.mistakes[0].column), (1, 6));
    assert_eq!(mistakes.mistakes.len(), 1);

    fs::remove_file(&path).unwrap();
    let Err(error @ LoadError::Read { .. }) = load(&path) else { panic!("was read") };
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
}

/// Places that a reader can go to.
fn assert_places(text: &str, mistakes: &Mistakes) {
    let mut last = (0, 0);
    for mistake in &mistakes.mistakes {
        let line = text.split('\n').nth(mistake.line - 1).expect("a line of the file");
        assert!(mistake.column >= 1 && mistake.column <= line.chars().count() + 1, "{mistake:?}");
        assert!((mistake.line, mistake.column) >= last, "{mistakes}");
        assert!(!mistake.message.is_empty() && !mistake.help.is_empty(), "{mistake:?}");
        last = (mistake.line, mistake.column);
    }
    assert!(!mistakes.to_string().is_empty());
}

/// The full example (of its comments only the first) cut off, with a character
/// missing, or with another one in its place, at every position: an answer each
/// time.
#[test]
fn broken_files() {
    let text = fs::read_to_string(repository().join("config/full.toml")).unwrap();
    let kept = |line: &&str| !line.starts_with('#') || line.starts_with("# Every key");
    let text: String = text.split_inclusive('\n').filter(kept).collect();
    let (mut accepted, mut refused) = (0, 0);
    for (at, c) in text.char_indices() {
        let (before, after) = (&text[..at], &text[at + c.len_utf8()..]);
        // Half of them here and half at the next: the time is that of the parser.
        let puts = ["é", "\"", "[", "=", "\n", "0", "\0"].iter().skip(at % 2).step_by(2);
        let puts = puts.map(|put| format!("{before}{put}{after}"));
        for broken in [before.to_owned(), before.to_owned() + after].into_iter().chain(puts) {
            match parse(&broken, "full.toml") {
                Ok(_) => accepted += 1,
                Err(mistakes) => {
                    refused += 1;
                    assert_places(&broken, &mistakes);
                }
            }
        }
    }
    assert!(accepted > 500 && refused > 500, "{accepted} accepted, {refused} refused");
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    for text in ["a = ".to_owned() + &"[".repeat(200_000), "a".to_owned() + &".a".repeat(200_000)] {
        assert_places(&text, &parse(&text, "x").unwrap_err());
    }
}
