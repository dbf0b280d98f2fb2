//! What is wrong in a configuration file, where, and what to write instead.

use std::{error::Error, fmt, ops::Range};

use serde::Serialize;

/// One mistake. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    pub line: usize,
    pub column: usize,
    /// Characters the mistake covers on its line; 0 where something is missing
    /// from the file as a whole.
    pub length: usize,
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// The line it stands on, without its line end.
    pub source: String,
}

/// Every mistake of one file, in the order of their positions. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistakes {
    pub path: String,
    pub mistakes: Vec<Mistake>,
}

/// Longest piece of a source line that is printed, in characters.
const EXCERPT: usize = 100;

impl Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.mistakes {
            let Mistake { line, column, message, help, .. } = mistake;
            writeln!(f, "{}:{line}:{column}: {message}", self.path)?;
            if mistake.length > 0 {
                let (excerpt, caret) = mistake.excerpt();
                writeln!(f, "    {excerpt}\n    {caret}")?;
            }
            writeln!(f, "  {help}\n")?;
        }
        match self.mistakes.len() {
            1 => write!(f, "1 mistake; nothing was changed"),
            count => write!(f, "{count} mistakes; nothing was changed"),
        }
    }
}

impl Mistake {
    /// The line without its indentation, cut around the mistake where it is
    /// long, and the line that underlines it.
    fn excerpt(&self) -> (String, String) {
        let line: Vec<char> = self.source.chars().collect();
        let start = (self.column - 1).min(line.len());
        let indentation = line.iter().take_while(|c| c.is_whitespace()).count().min(start);
        let from = indentation.max((start + 1).saturating_sub(EXCERPT * 2 / 3));
        let to = line.len().min(from + EXCERPT);
        let cut_left = if from > indentation { "…" } else { "" };
        let cut_right = if to < line.len() { "…" } else { "" };
        let shown: String = line.get(from..to).unwrap_or_default().iter().collect();
        // A tab stays a tab, so that the underline stands right at any width.
        let padding: String = line
            .get(from..start)
            .unwrap_or_default()
            .iter()
            .map(|c| if *c == '\t' { '\t' } else { ' ' })
            .collect();
        let carets = self.length.min(to.saturating_sub(start)).max(1);
        (
            format!("{cut_left}{shown}{cut_right}"),
            format!(
                "{}{padding}{}",
                if cut_left.is_empty() { "" } else { " " },
                "^".repeat(carets)
            ),
        )
    }
}

/// Collects mistakes by byte range while a file is read.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    text: &'t str,
    found: Vec<(Range<usize>, String, String)>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        at: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.found.push((at, message.into(), help.into()));
    }

    /// Something the file as a whole lacks.
    pub(super) fn add_missing(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.add(0..0, message, help);
    }

    /// The line a byte range starts on, from 1.
    pub(super) fn line_of(&self, at: &Range<usize>) -> usize {
        self.text.get(..at.start).unwrap_or(self.text).matches('\n').count() + 1
    }

    /// `Err` with everything found, sorted, if anything was.
    pub(super) fn finish(self, path: &str) -> Result<(), Mistakes> {
        if self.found.is_empty() { Ok(()) } else { Err(self.into_mistakes(path)) }
    }

    pub(super) fn into_mistakes(mut self, path: &str) -> Mistakes {
        self.found.sort_by_key(|(at, ..)| at.start);
        let found = std::mem::take(&mut self.found);
        let mistakes =
            found.into_iter().map(|(at, message, help)| self.place(&at, message, help)).collect();
        Mistakes { path: path.to_owned(), mistakes }
    }

    fn place(&self, at: &Range<usize>, message: String, help: String) -> Mistake {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = self.text.get(line_start..).unwrap_or_default();
        let source = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        let covered = self.text.get(at.clone()).unwrap_or_default();
        let length = match *at {
            Range { start: 0, end: 0 } => 0,
            _ => covered.lines().next().unwrap_or_default().chars().count().max(1),
        };
        Mistake {
            line: before.matches('\n').count() + 1,
            column,
            length,
            message,
            help,
            source: source.to_owned(),
        }
    }
}
