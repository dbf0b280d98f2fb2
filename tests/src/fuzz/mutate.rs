//! One input from others.

use crate::random::Random;

/// How inputs are built, which says where it makes sense to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Fields of bytes in network order.
    Binary,
    /// Lines of words.
    Text,
}

/// Changes of one input, at most.
const CHANGES: usize = 6;

/// Numbers at which code changes its mind.
const EDGES: [u16; 12] = [0, 1, 4, 5, 6, 0x7f, 0x80, 0xff, 0x1fff, 0x2000, 0x7fff, 0xffff];

/// Makes inputs for one target.
#[derive(Debug)]
pub struct Mutator {
    pub random: Random,
    pub format: Format,
    pub dictionary: &'static [&'static [u8]],
    /// Bytes of an input, at most.
    pub limit: usize,
}

impl Mutator {
    /// A child of `pool`, which is not empty.
    pub fn child(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.random.choose(pool).cloned().unwrap_or_default();
        // Few changes more often than many.
        let changes = 1 + self.random.place(CHANGES).min(self.random.place(CHANGES));
        for _ in 0..changes {
            match self.format {
                Format::Text if self.random.below(3) > 0 => self.change_text(&mut input, pool),
                _ => self.change_bytes(&mut input, pool),
            }
        }
        input.truncate(self.limit);
        input
    }

    fn change_bytes(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let at = self.random.place(input.len());
        match self.random.below(10) {
            0 | 1 => self.flip(input, at),
            2 => self.edge(input, at),
            3 => overwrite(input, at, &[self.random.bits() as u8]),
            4 => {
                let token = self.token();
                overwrite(input, at, token);
            }
            5 => {
                let token = self.token();
                insert(input, at, token);
            }
            6 => {
                let until = self.near(at, input.len());
                input.drain(at..until);
            }
            7 => {
                let until = self.near(at, input.len());
                let copy = input[at..until].to_vec();
                insert(input, self.random.place(input.len()), &copy);
            }
            8 => input.truncate(at),
            _ => self.splice(input, at, pool),
        }
    }

    fn flip(&mut self, input: &mut [u8], at: usize) {
        if let Some(byte) = input.get_mut(at) {
            *byte ^= 1 << self.random.below(8);
        }
    }

    /// A number at an edge, or one beside what stands there.
    fn edge(&mut self, input: &mut [u8], at: usize) {
        let edge = *self.random.choose(&EDGES).unwrap_or(&0);
        match self.random.below(4) {
            0 => overwrite(input, at, &edge.to_be_bytes()),
            1 => overwrite(input, at, &(edge as u8).to_be_bytes()),
            2 => overwrite(input, at, &[input.get(at).map_or(0, |byte| byte.wrapping_add(1))]),
            _ => overwrite(input, at, &[input.get(at).map_or(0, |byte| byte.wrapping_sub(1))]),
        }
    }

    /// The beginning of this one and the end of another.
    fn splice(&mut self, input: &mut Vec<u8>, at: usize, pool: &[Vec<u8>]) {
        let Some(other) = self.random.choose(pool) else { return };
        // At the same place in both, or anywhere.
        let from = match self.random.below(2) {
            0 => at.min(other.len()),
            _ => self.random.place(other.len()),
        };
        input.truncate(at);
        input.extend_from_slice(&other[from..]);
    }

    fn change_text(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let lines: Vec<&[u8]> = input.split_inclusive(|&byte| byte == b'\n').collect();
        let (a, b) = (self.random.place(lines.len()), self.random.place(lines.len()));
        let mut lines = lines;
        match self.random.below(7) {
            0 if !lines.is_empty() => {
                lines.remove(a);
            }
            1 if !lines.is_empty() => lines.insert(b, lines[a]),
            2 if !lines.is_empty() => lines.swap(a, b),
            3 => {
                let Some(other) = self.random.choose(pool) else { return };
                let theirs: Vec<&[u8]> = other.split_inclusive(|&byte| byte == b'\n').collect();
                if let Some(line) = self.random.choose(&theirs) {
                    lines.insert(b, line);
                }
            }
            _ => return self.change_word(input, pool),
        }
        *input = lines.concat();
    }

    /// Another word in a word's place.
    fn change_word(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let Some(place) = self.word(input) else { return };
        let word = match self.random.below(3) {
            0 => {
                let Some(other) = self.random.choose(pool) else { return };
                let Some(theirs) = self.word(other) else { return };
                other[theirs].to_vec()
            }
            1 => self.random.bits().to_string().into_bytes(),
            _ => self.token().to_vec(),
        };
        input.splice(place, word);
    }

    /// A run of bytes that are not between words.
    fn word(&mut self, text: &[u8]) -> Option<std::ops::Range<usize>> {
        let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.%:".contains(byte);
        let from = self.random.place(text.len());
        let start = from + text[from..].iter().position(inside)?;
        let len = text[start..].iter().position(|byte| !inside(byte));
        Some(start..len.map_or(text.len(), |len| start + len))
    }

    fn token(&mut self) -> &'static [u8] {
        self.random.choose(self.dictionary).copied().unwrap_or_default()
    }

    /// A place a little after `at`, seldom far after it.
    fn near(&mut self, at: usize, len: usize) -> usize {
        let most = if self.random.below(8) == 0 { len } else { 8 };
        len.min(at + self.random.place(most) + 1)
    }
}

fn overwrite(input: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in input.iter_mut().skip(at).zip(with) {
        *byte = *new;
    }
}

fn insert(input: &mut Vec<u8>, at: usize, what: &[u8]) {
    let at = at.min(input.len());
    input.splice(at..at, what.iter().copied());
}
