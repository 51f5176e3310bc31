//! Owns what the bench prints: a table, and JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// One figure of one program at one work, in one round.
#[derive(Debug, Clone)]
pub struct Figure {
    pub work: &'static str,
    pub program: &'static str,
    pub what: &'static str,
    pub value: f64,
}

/// All figures of all rounds.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

/// The figures of one work by one program: medians over the rounds, in the order in which they came.
type Line = (&'static str, &'static str, Vec<(&'static str, Spread)>);

/// Smallest, middle and largest of some rounds.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Report {
    pub fn add(&mut self, work: &'static str, program: &'static str, what: &'static str, value: f64) {
        self.figures.push(Figure { work, program, what, value });
    }

    /// A figure of the latest round, which others of the same round are compared with.
    pub fn latest(&self, work: &str, program: &str, what: &str) -> f64 {
        let mut figures = self.figures.iter().rev();
        let latest = figures.find(|figure| (figure.work, figure.program, figure.what) == (work, program, what));
        latest.map(|figure| figure.value).expect("it was measured in this round")
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for figure in &self.figures {
            let known = lines.iter().position(|line| (line.0, line.1) == (figure.work, figure.program));
            let at = known.unwrap_or_else(|| {
                lines.push((figure.work, figure.program, Vec::new()));
                lines.len() - 1
            });
            if !lines[at].2.iter().any(|(what, _)| *what == figure.what) {
                let spread = self.spread_of(figure.work, figure.program, figure.what);
                lines[at].2.extend(spread.map(|spread| (figure.what, spread)));
            }
        }
        lines
    }

    /// One figure over all rounds, if it was measured.
    pub fn spread_of(&self, work: &str, program: &str, what: &str) -> Option<Spread> {
        let same = |figure: &&Figure| (figure.work, figure.program, figure.what) == (work, program, what);
        let mut values: Vec<f64> = self.figures.iter().filter(same).map(|figure| figure.value).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        Some(Spread { low, median: values[values.len() / 2], high })
    }

    /// A table: a line for each work and program, with the CPU per event as a ratio to the straightforward program's.
    pub fn text(&self) -> String {
        let cpu = |work: &str, program: &str| self.spread_of(work, program, CPU).map(|spread| spread.median);
        let mut text = String::new();
        for (work, program, figures) in &self.lines() {
            let _ = write!(text, "{work:24} {program:16}");
            for (what, spread) in figures {
                let _ = write!(text, "  {what} {}", number(spread.median));
                if spread.low < spread.high {
                    let _ = write!(text, " ({}-{})", number(spread.low), number(spread.high));
                }
            }
            if let (Some(own), Some(base)) = (cpu(work, program), cpu(work, BASELINE))
                && *program != BASELINE
                && base > 0.0
            {
                let _ = write!(text, "  = {:.2} x {BASELINE}", own / base);
            }
            text.push('\n');
        }
        text
    }

    pub fn json(&self) -> Value {
        let lines = self.lines().into_iter().map(|(work, program, figures)| {
            let figures: BTreeMap<_, _> = figures
                .into_iter()
                .map(|(what, spread)| (what, json!({"median": spread.median, "low": spread.low, "high": spread.high})))
                .collect();
            json!({"work": work, "program": program, "figures": figures})
        });
        Value::Array(lines.collect())
    }
}

/// The figure that programs are compared by.
pub const CPU: &str = "CPU µs/event";
/// The program that they are compared to.
pub const BASELINE: &str = "straightforward";

pub fn number(value: f64) -> String {
    match value {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
