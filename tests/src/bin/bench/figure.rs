//! The figures that are kept, what they are compared with, and the little statistics they need.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, fs, path::Path};

/// By how much a figure may differ from the baseline before it counts as worse.
const WORSE: f64 = 1.2;

/// Which way a figure is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// Times, memory.
    Less,
    /// Speeds.
    More,
}

/// One figure: a median, most often a ratio.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    /// Its name in the baseline: snake case, never reused for something else.
    pub(crate) name: String,
    /// The value.
    pub(crate) value: f64,
    /// What it is counted in; empty for ratios.
    pub(crate) unit: &'static str,
    /// What it should be at most, or at least; `None` when it is only watched.
    pub(crate) goal: Option<f64>,
    /// Which way it is good.
    pub(crate) better: Better,
}

impl Figure {
    /// A figure that should be small.
    pub(crate) fn less(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure {
            name: name.into(),
            value,
            unit,
            goal: None,
            better: Better::Less,
        }
    }

    /// A figure that should be large.
    pub(crate) fn more(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure {
            better: Better::More,
            ..Figure::less(name, value, unit)
        }
    }

    /// With a goal.
    pub(crate) fn goal(mut self, goal: f64) -> Figure {
        self.goal = Some(goal);
        self
    }

    fn meets(&self, goal: f64) -> bool {
        match self.better {
            Better::Less => self.value <= goal,
            Better::More => self.value >= goal,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.3} {}", self.value, self.unit);
        write!(f, "{:<40} {text:<14}", self.name)?;
        let Some(goal) = self.goal else { return Ok(()) };
        let sign = match self.better {
            Better::Less => "<=",
            Better::More => ">=",
        };
        let verdict = if self.meets(goal) { "met" } else { "MISSED" };
        write!(f, " goal {sign} {goal}: {verdict}")
    }
}

/// A run's figures as they lie in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Where they were taken; for people.
    machine: String,
    /// Value by name.
    figures: BTreeMap<String, f64>,
}

impl Record {
    pub(crate) fn of(machine: String, figures: &[Figure]) -> Record {
        Record {
            machine,
            figures: figures
                .iter()
                .map(|f| (f.name.clone(), (f.value * 1e3).round() / 1e3))
                .collect(),
        }
    }

    /// The file's figures; `None` when there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Record>, String> {
        match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|e| format!("{}: {e}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let wrong = |e: &dyn fmt::Display| format!("{}: {e}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|e| wrong(&e))?;
        }
        let text = serde_json::to_string_pretty(self).map_err(|e| wrong(&e))?;
        fs::write(path, text + "\n").map_err(|e| wrong(&e))
    }

    /// These figures, and the older ones that were not taken anew.
    pub(crate) fn over(mut self, older: Option<Record>) -> Record {
        for (name, value) in older.map(|o| o.figures).unwrap_or_default() {
            self.figures.entry(name).or_insert(value);
        }
        self
    }

    /// Prints what is worse than this baseline.
    pub(crate) fn compare(&self, now: &[Figure]) {
        println!("baseline of {}", self.machine);
        let mut worse = 0;
        for figure in now {
            let Some(&was) = self.figures.get(&figure.name) else {
                continue;
            };
            let ratio = match figure.better {
                Better::Less => figure.value / was,
                Better::More => was / figure.value,
            };
            if ratio > WORSE {
                worse += 1;
                println!(
                    "WORSE      {}: {:.3}, was {was:.3}",
                    figure.name, figure.value
                );
            }
        }
        if worse == 0 {
            println!("nothing got worse by more than 20 %");
        }
    }
}

/// The middle value; NaN of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => f64::NAN,
        all => (all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2.0,
    }
}

/// The least value.
pub(crate) fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The greatest value.
pub(crate) fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// Prints one line of rounds as (theirs, ours) in seconds, and gives the median of the ratios.
pub(crate) fn ratio(name: &str, rounds: &[(f64, f64)]) -> f64 {
    let ratios: Vec<f64> = rounds.iter().map(|(theirs, ours)| ours / theirs).collect();
    let middle = median(ratios.clone());
    println!(
        "{name:<34} {:>8.3} {:>8.3}   {middle:.3} ({:.3} .. {:.3})",
        median(rounds.iter().map(|r| r.0).collect()),
        median(rounds.iter().map(|r| r.1).collect()),
        least(&ratios),
        most(&ratios),
    );
    middle
}

/// The head of the lines of [`ratio`].
pub(crate) fn ratio_head(theirs: &str) {
    println!(
        "{:<34} {theirs:>8} PlexBeam   ratio, median (min .. max)",
        "median of the rounds, seconds"
    );
}
