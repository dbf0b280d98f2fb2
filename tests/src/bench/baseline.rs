//! What a change does to the figures: the ratios of a run beside those that
//! are committed. A ratio never fails: machines differ, and change their pace.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    machine::Machine,
    report::{By, Section},
    verified,
};

/// A change of so much is marked, and its commit says why.
const MARKED: f64 = 0.10;

/// What a quick run gave, where it was committed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Baseline {
    pub machine: Machine,
    /// By section and row, each to the row it is compared with.
    pub ratios: BTreeMap<String, BTreeMap<String, f64>>,
    /// Of the verifier's walk, by program.
    pub instructions: BTreeMap<String, f64>,
}

impl Baseline {
    #[must_use]
    pub fn of(machine: &Machine, sections: &[Section]) -> Self {
        let mut baseline = Self { machine: machine.clone(), ..Self::default() };
        for section in sections {
            if section.name == verified::NAME {
                let counts = section.rows.iter().map(|row| (row.name.clone(), row.median));
                baseline.instructions = counts.collect();
                continue;
            }
            let ratios: BTreeMap<String, f64> = section
                .rows
                .iter()
                .filter_map(|row| {
                    let against = row.against.as_ref().filter(|by| by.by == By::Ratio)?;
                    Some((row.name.clone(), (against.value * 1000.0).round() / 1000.0))
                })
                .collect();
            if !ratios.is_empty() {
                baseline.ratios.insert(section.name.clone(), ratios);
            }
        }
        baseline
    }

    /// # Errors
    /// Where the file is not there, or is no baseline.
    pub fn read(file: &Path) -> Result<Self> {
        let context = || format!("reading {}", file.display());
        let text = std::fs::read_to_string(file).with_context(context)?;
        serde_json::from_str(&text).with_context(context)
    }

    /// This run's beside another's, as a table.
    #[must_use]
    pub fn beside(&self, before: &Self) -> String {
        let mut text = String::new();
        let title = ["", "baseline", "now", "change"];
        line(&mut text, title[0], [title[1], title[2], title[3]].map(str::to_owned), "");
        for (section, ratios) in &self.ratios {
            let known = before.ratios.get(section);
            for (row, &now) in ratios {
                let name = format!("{section}: {row}");
                let was = known.and_then(|known| known.get(row)).copied();
                compared(&mut text, &name, was, now, 2);
            }
        }
        for (program, &now) in &self.instructions {
            let was = before.instructions.get(program).copied();
            compared(&mut text, &format!("verified instructions: {program}"), was, now, 0);
        }
        for name in self.missing(before) {
            let _ = writeln!(text, "  {name}: not measured any more");
        }
        if before.machine != self.machine {
            let there = format!("Linux {}, {}", before.machine.kernel, before.machine.cpu);
            let _ = writeln!(text, "  (the baseline is of another machine: {there})");
        }
        text
    }

    /// Rows that the one before had, and this one has not.
    fn missing(&self, before: &Self) -> Vec<String> {
        let has = |section: &str, row: &str| {
            self.ratios.get(section).is_some_and(|rows| rows.contains_key(row))
        };
        before
            .ratios
            .iter()
            .flat_map(|(section, rows)| rows.keys().map(move |row| (section, row)))
            .filter(|(section, row)| !has(section, row))
            .map(|(section, row)| format!("{section}: {row}"))
            .collect()
    }
}

fn compared(text: &mut String, name: &str, was: Option<f64>, now: f64, digits: usize) {
    let Some(was) = was else {
        let columns = ["-".to_owned(), format!("{now:.digits$}"), "new".to_owned()];
        return line(text, name, columns, "");
    };
    let change = now / was - 1.0;
    let mark = if change.abs() > MARKED { "  <-- over 10 %" } else { "" };
    let columns =
        [format!("{was:.digits$}"), format!("{now:.digits$}"), format!("{:+.1} %", change * 100.0)];
    line(text, name, columns, mark);
}

fn line(text: &mut String, name: &str, [was, now, change]: [String; 3], mark: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {name:<50} {was:>9} {now:>9} {change:>9}{mark}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Row;

    fn section(value: f64) -> Result<Section> {
        let (own, other) = ([value; 3], [10.0; 3]);
        Ok(Section {
            name: "packets-1".to_owned(),
            about: String::new(),
            unit: "ns".to_owned(),
            rows: vec![
                Row::of("base", &other)?,
                Row::of("ours", &own)?.beside(("base", &other), By::Ratio, &own, None)?,
                Row::of("over", &own)?.beside(("base", &other), By::Difference, &own, None)?,
            ],
        })
    }

    fn baseline(value: f64) -> Result<Baseline> {
        Ok(Baseline::of(&Machine::default(), &[section(value)?]))
    }

    #[test]
    fn only_ratios_are_kept() -> Result<()> {
        let kept = baseline(21.0)?;
        let rows = BTreeMap::from([("ours".to_owned(), 2.1)]);
        assert_eq!(kept.ratios, BTreeMap::from([("packets-1".to_owned(), rows)]));
        Ok(())
    }

    #[test]
    fn what_changed_by_over_a_tenth_is_marked() -> Result<()> {
        let before = baseline(20.0)?;
        let marked =
            |value| Ok::<_, anyhow::Error>(baseline(value)?.beside(&before).contains("<--"));
        assert!(!marked(21.9)? && !marked(18.1)?);
        assert!(marked(22.1)? && marked(17.9)?);
        Ok(())
    }

    #[test]
    fn rows_come_and_go() -> Result<()> {
        let (some, none) = (baseline(20.0)?, Baseline::default());
        assert!(some.beside(&none).contains("new"));
        assert!(none.beside(&some).contains("packets-1: ours: not measured any more"));
        Ok(())
    }
}
