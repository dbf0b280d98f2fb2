//! canary.toml(5): the configuration reference, turned from Markdown into the
//! macros of man(7).

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// The whole page.
pub(super) fn configuration(markdown: &str, version: &str) -> String {
    let mut page = Page::default();
    page.line(&format!(".TH canary.toml 5 \"\" \"canary {version}\" \"canary\""));
    page.line(".SH NAME\ncanary.toml \\- configuration of canary");
    page.line(".SH DESCRIPTION");
    let options = Options::ENABLE_TABLES;
    Parser::new_ext(markdown, options).for_each(|event| page.event(event));
    page.line(".SH \"SEE ALSO\"\n.BR canary (1),\n.BR canary\\-run (1)");
    page.out
}

#[derive(Debug, Default)]
struct Page {
    out: String,
    /// Words of the paragraph, heading or cell that is being read.
    text: String,
    /// What the columns of the table are called.
    columns: Vec<String>,
    cells: Vec<String>,
    verbatim: bool,
    /// Nothing came after the heading yet.
    begins: bool,
    link: Option<String>,
}

impl Page {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Code(code) => self.text += &format!("\\fB{}\\fR", escaped(&code)),
            Event::Text(text) if self.verbatim => self.example(&text),
            Event::Text(text) => self.text += &escaped(&text),
            Event::SoftBreak | Event::HardBreak => self.text.push(' '),
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            // A heading begins a paragraph by itself.
            Tag::Paragraph if self.begins => {}
            Tag::Paragraph => self.line(".PP"),
            Tag::CodeBlock(_) => {
                self.verbatim = true;
                self.line(".PP\n.RS 4\n.EX");
            }
            Tag::Item => self.line(".IP \\(bu 2"),
            Tag::Strong => self.text += "\\fI",
            Tag::Link { dest_url, .. } if dest_url.starts_with("http") => {
                self.link = Some(dest_url.into_string());
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(HeadingLevel::H1) => {
                // The page's own name says it.
                self.text.clear();
            }
            TagEnd::Heading(level) => {
                let heading = self.take();
                let kind = if level == HeadingLevel::H2 { "SH" } else { "SS" };
                // The quote would end the argument.
                self.line(&format!(".{kind} \"{}\"", heading.replace('"', "\\(dq")));
            }
            TagEnd::Paragraph | TagEnd::Item => {
                let text = self.take();
                self.paragraph(&text);
            }
            TagEnd::CodeBlock => {
                self.verbatim = false;
                self.line(".EE\n.RE");
            }
            TagEnd::Strong => self.text += "\\fR",
            TagEnd::Link => {
                if let Some(url) = self.link.take() {
                    self.text += &format!(" <{}>", escaped(&url));
                }
            }
            TagEnd::TableCell => {
                let cell = self.take();
                self.cells.push(cell);
            }
            TagEnd::TableHead => self.columns = std::mem::take(&mut self.cells),
            TagEnd::TableRow => self.row(),
            _ => {}
        }
    }

    /// A row has its first cell for a tag; the last one, which says most, comes
    /// before those with a word or two, which say of what they are.
    fn row(&mut self) {
        let cells = std::mem::take(&mut self.cells);
        let named: Vec<(&String, &String)> = self.columns.iter().zip(&cells).collect();
        let Some(((_, tag), rest)) = named.split_first() else { return };
        let is_prose = |name: &str| matches!(name, "meaning" | "what" | "of which flows");
        let (prose, facts): (Vec<_>, Vec<_>) =
            rest.iter().filter(|(_, cell)| !cell.is_empty()).partition(|(name, _)| is_prose(name));
        let mut lines: Vec<String> = prose.iter().map(|(_, cell)| (*cell).clone()).collect();
        lines.extend(facts.iter().map(|(name, cell)| format!("{name}: {cell}")));
        let block = lines.join("\n.br\n");
        self.line(&format!(".TP\n{}", guarded(tag)));
        for line in block.lines() {
            self.line(&if line == ".br" { line.to_owned() } else { guarded(line) });
        }
    }

    fn paragraph(&mut self, text: &str) {
        if !text.is_empty() {
            self.line(&guarded(text));
        }
    }

    fn example(&mut self, text: &str) {
        for line in text.lines() {
            self.line(&guarded(&escaped(line)));
        }
    }

    fn take(&mut self) -> String {
        std::mem::take(&mut self.text).trim().to_owned()
    }

    fn line(&mut self, line: &str) {
        self.begins = line.starts_with(".S");
        self.out += line;
        self.out.push('\n');
    }
}

/// As roff shows these characters: a minus that can be copied, no ligatures of
/// quotes, and no escapes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => out += "\\e",
            '-' => out += "\\-",
            '\'' => out += "\\(aq",
            '`' => out += "\\(ga",
            '^' => out += "\\(ha",
            '~' => out += "\\(ti",
            ascii if ascii.is_ascii() => out.push(ascii),
            other => out += &format!("\\[u{:04X}]", u32::from(other)),
        }
    }
    out
}

/// A dot that begins a line would be a macro's.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::configuration;

    #[test]
    fn a_table_becomes_tagged_paragraphs() {
        let page = configuration(
            "# T\n\n## Keys\n\nA `b` and **c-d**.\n\n| key | default | meaning |\n|---|---|---|\n\
             | `flows` | `2` | room for `x` |\n| `y` | | |\n",
            "1.2",
        );
        let expected = ".SH \"Keys\"\nA \\fBb\\fR and \\fIc\\-d\\fR.\n.TP\n\\fBflows\\fR\n\
                        room for \\fBx\\fR\n.br\ndefault: \\fB2\\fR\n.TP\n\\fBy\\fR\n.SH \"SEE ALSO\"";
        assert!(page.contains(expected), "{page}");
    }

    #[test]
    fn what_would_be_a_macro_is_none() {
        let page = configuration("## X\n\n```toml\n.x = 'a\\b'\n```\n\n.hidden…\n", "1");
        assert!(page.contains(".EX\n\\&.x = \\(aqa\\eb\\(aq\n.EE"), "{page}");
        assert!(page.contains("\n.PP\n\\&.hidden\\[u2026]\n"), "{page}");
    }
}
