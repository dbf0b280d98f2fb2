//! Values of the configuration, one by one: each reader gives the value or
//! notes what is wrong with it.

use std::{net::SocketAddr, ops::Range, ops::RangeInclusive, path::PathBuf, time::Duration};

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::{
    address::{self, Role},
    mistakes::Problems,
    suggest::or_list,
};

/// A key's value and where it stands.
#[derive(Debug)]
pub(super) struct Field<'a, 't> {
    pub(super) key: &'a str,
    pub(super) value: &'a DeValue<'t>,
    pub(super) at: Range<usize>,
}

pub(super) fn field<'a, 't>(table: &'a DeTable<'t>, key: &'a str) -> Option<Field<'a, 't>> {
    table.get(key).map(|value| Field { key, value: value.get_ref(), at: value.span() })
}

/// An integer of the file, if it fits.
pub(super) fn integer(value: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(value.as_str(), value.radix()).ok()
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with decimals",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl<'a, 't> Field<'a, 't> {
    fn wrong(&self, problems: &mut Problems<'_>, message: String, help: String) {
        problems.add(self.at.clone(), message, help);
    }

    pub(super) fn wrong_type(&self, problems: &mut Problems<'_>, wanted: &str, help: String) {
        let message = format!("`{}` is {}, not {wanted}", self.key, type_name(self.value));
        self.wrong(problems, message, help);
    }

    /// `example` is a value as it would stand in the file.
    fn write(&self, example: &str) -> String {
        format!("write {} = {example}", self.key)
    }

    pub(super) fn string(&self, problems: &mut Problems<'_>, example: &str) -> Option<&'a str> {
        if let DeValue::String(text) = self.value {
            return Some(text);
        }
        self.wrong_type(problems, "a string", self.write(&format!("\"{example}\"")));
        None
    }

    pub(super) fn boolean(&self, problems: &mut Problems<'_>) -> Option<bool> {
        if let DeValue::Boolean(value) = self.value {
            return Some(*value);
        }
        let help = format!("write {0} = true or {0} = false", self.key);
        self.wrong_type(problems, "true or false", help);
        None
    }

    pub(super) fn whole(
        &self,
        problems: &mut Problems<'_>,
        range: RangeInclusive<u32>,
        example: u32,
    ) -> Option<u32> {
        let DeValue::Integer(number) = self.value else {
            self.wrong_type(problems, "a whole number", self.write(&example.to_string()));
            return None;
        };
        let value = integer(number).and_then(|value| u32::try_from(value).ok());
        let value = value.filter(|value| range.contains(value));
        if value.is_none() {
            let (least, most) = range.into_inner();
            self.wrong(
                problems,
                format!("`{}` is {number}, out of range", self.key),
                format!("write a number from {least} to {most}, for example {example}"),
            );
        }
        value
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        problems: &mut Problems<'_>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let text = self.string(problems, words.first().copied().unwrap_or_default())?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let help = match words.as_slice() {
            [only] => format!("\"{only}\" is the only value yet"),
            several => format!("write {}", or_list(several, "\"")),
        };
        self.wrong(problems, format!("`{}` cannot be \"{text}\"", self.key), help);
        None
    }

    /// A share: a string in percent, or a number, which is percent too. Gives
    /// a fraction of 1.
    pub(super) fn share(&self, problems: &mut Problems<'_>) -> Option<f64> {
        let percent = match self.value {
            DeValue::String(text) => percent(text),
            DeValue::Integer(number) => integer(number).map(|number| number as f64),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => {
                self.wrong_type(problems, "a share", self.write("\"5%\""));
                return None;
            }
        };
        let said = match percent {
            Some(percent) if percent < 0.0 => "is negative".to_owned(),
            Some(percent) if percent > 100.0 => "is over 100 %".to_owned(),
            // Zero may have been written with a minus.
            Some(percent) if percent.is_finite() => return Some(percent.abs() / 100.0),
            _ => "is not a share".to_owned(),
        };
        let help = match self.value {
            DeValue::String(text) if !text.contains('%') && text.trim().parse::<f64>().is_ok() => {
                format!("write \"{}%\"; shares are in percent", text.trim())
            }
            _ => "write a share between 0% and 100%, for example \"5%\"".to_owned(),
        };
        self.wrong(problems, format!("`{}` {said}", self.key), help);
        None
    }

    /// A share inside of a range. Both are fractions of 1; `example` is a value
    /// as it would stand in the file.
    pub(super) fn share_between(
        &self,
        problems: &mut Problems<'_>,
        range: RangeInclusive<f64>,
        example: &str,
    ) -> Option<f64> {
        let share = self.share(problems)?;
        if range.contains(&share) {
            return Some(share);
        }
        let (least, most) = (in_percent(*range.start()), in_percent(*range.end()));
        self.wrong(
            problems,
            format!("`{}` is out of range", self.key),
            format!("write a share from {least} to {most}, for example \"{example}\""),
        );
        None
    }

    /// A number, with decimals or without.
    pub(super) fn number(
        &self,
        problems: &mut Problems<'_>,
        range: RangeInclusive<f64>,
        example: f64,
    ) -> Option<f64> {
        let (written, number) = match self.value {
            DeValue::Integer(number) => {
                (number.to_string(), integer(number).map(|number| number as f64))
            }
            DeValue::Float(number) => (number.to_string(), number.as_str().parse().ok()),
            _ => {
                self.wrong_type(problems, "a number", self.write(&format!("{example:?}")));
                return None;
            }
        };
        let number = number.filter(|number: &f64| number.is_finite() && range.contains(number));
        if number.is_none() {
            let help = match (*range.start(), *range.end()) {
                (f64::MIN, f64::MAX) => format!("write a number, for example {example:?}"),
                (least, most) => {
                    format!("write a number from {least} to {most}, for example {example:?}")
                }
            };
            self.wrong(problems, format!("`{}` is {written}, out of range", self.key), help);
        }
        number
    }

    pub(super) fn duration(
        &self,
        problems: &mut Problems<'_>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let (least, most) = (*range.start(), *range.end());
        let text = match self.value {
            DeValue::String(text) => text,
            DeValue::Integer(seconds) => {
                self.wrong_type(problems, "a time", self.write(&format!("\"{seconds}s\"")));
                return None;
            }
            _ => {
                self.wrong_type(problems, "a time", self.write("\"30s\""));
                return None;
            }
        };
        let examples = [("30s", 30), ("5m", 300), ("2h 4m", 7440)].into_iter();
        let examples: Vec<&str> = examples
            .filter(|(_, seconds)| range.contains(&Duration::from_secs(*seconds)))
            .map(|(example, _)| example)
            .collect();
        let limits = format!(
            "write a time from {} to {}, for example {}",
            humantime::format_duration(least),
            humantime::format_duration(most),
            or_list(&examples, "\"")
        );
        let said = match humantime::parse_duration(text) {
            Ok(duration) if duration < least => "too short",
            Ok(duration) if duration > most => "too long",
            Ok(duration) => return Some(duration),
            Err(_) => "not a time",
        };
        self.wrong(problems, format!("`{}`: \"{text}\" is {said}", self.key), limits);
        None
    }

    /// An absolute path.
    pub(super) fn path(&self, problems: &mut Problems<'_>, example: &str) -> Option<PathBuf> {
        let text = self.string(problems, example)?;
        let said = if !text.starts_with('/') {
            "is not an absolute path"
        } else if text.contains('\0') {
            "has a NUL in it"
        } else {
            return Some(PathBuf::from(text));
        };
        self.wrong(
            problems,
            format!("`{}`: \"{text}\" {said}", self.key),
            format!("write the path from the root, for example \"{example}\""),
        );
        None
    }

    pub(super) fn address(&self, problems: &mut Problems<'_>, role: Role) -> Option<SocketAddr> {
        let text = self.string(problems, role.example())?;
        match address::read(text, role) {
            Ok(address) => Some(address),
            Err((message, help)) => {
                self.wrong(problems, format!("`{}`: {message}", self.key), help);
                None
            }
        }
    }

    pub(super) fn table(&self, problems: &mut Problems<'_>) -> Option<&'a DeTable<'t>> {
        if let DeValue::Table(table) = self.value {
            return Some(table);
        }
        let help = format!("write [{}] on a line of its own and its keys under it", self.key);
        self.wrong_type(problems, "a table", help);
        None
    }

    /// The tables under headers in double brackets, or in a list; those that are
    /// none are noted and left out. `place` is the header without its brackets.
    pub(super) fn tables(
        &self,
        problems: &mut Problems<'_>,
        place: &str,
    ) -> Vec<Spanned<&'a DeTable<'t>>> {
        let help = format!("write [[{place}]] above each, in double brackets");
        let DeValue::Array(elements) = self.value else {
            self.wrong_type(problems, "a list of tables", help);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for element in elements {
            if let DeValue::Table(table) = element.get_ref() {
                tables.push(Spanned::new(element.span(), table));
            } else {
                let field = Field { key: self.key, value: element.get_ref(), at: element.span() };
                field.wrong_type(problems, "a table", help.clone());
            }
        }
        tables
    }

    /// `example` is one element as it would stand in the file.
    pub(super) fn list(
        &self,
        problems: &mut Problems<'_>,
        example: &str,
    ) -> Option<&'a [Spanned<DeValue<'t>>]> {
        if let DeValue::Array(elements) = self.value {
            return Some(elements);
        }
        let element = match self.value {
            DeValue::String(text) => format!("\"{text}\""),
            _ => example.to_owned(),
        };
        self.wrong_type(problems, "a list", self.write(&format!("[{element}]")));
        None
    }
}

/// The time under a key, or what holds where there is none or a wrong one.
pub(super) fn time_or(
    default: Duration,
    table: &DeTable<'_>,
    key: &str,
    range: RangeInclusive<Duration>,
    problems: &mut Problems<'_>,
) -> Duration {
    field(table, key).and_then(|field| field.duration(problems, range)).unwrap_or(default)
}

/// A fraction of 1 as the file would have it, without what the division by 100
/// left of dust.
pub(super) fn in_percent(share: f64) -> String {
    format!("{}%", (share * 1e14).round() / 1e12)
}

/// The number before a `%`, in plain decimals.
fn percent(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%')?.trim();
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-');
    number.parse().ok().filter(|_| plain)
}
