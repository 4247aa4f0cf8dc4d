//! Markdown: tables of results and the table of goals.

use crate::measure::{Results, Series};
use std::fmt::Write;

/// A goal, and what came of it.
pub struct Goal {
    pub what: &'static str,
    pub goal: String,
    pub measured: String,
    /// `None`: it was not measured.
    pub met: Option<bool>,
}

/// What is printed at the end.
#[derive(Default)]
pub struct Report {
    body: String,
    goals: Vec<Goal>,
}

impl Report {
    pub fn section(&mut self, title: &str, text: &str) {
        let _ = write!(self.body, "\n## {title}\n\n{text}\n");
    }

    pub fn paragraph(&mut self, text: &str) {
        let _ = write!(self.body, "\n{text}\n");
    }

    /// A row for each target: times, spread, rate, and how it compares with the bases.
    pub fn latencies(&mut self, results: &Results, bases: &[&str]) {
        let bases: Vec<&Series> = bases.iter().filter_map(|b| results.get(b)).collect();
        let mut head = "\n| target | p50 µs | p99 µs | p50 of the rounds µs | operations/s |".to_owned();
        let mut rule = "|---|--:|--:|--:|--:|".to_owned();
        for base in &bases {
            let _ = write!(head, " × {} |", base.name);
            rule.push_str("--:|");
        }
        let _ = writeln!(self.body, "{head}\n{rule}");
        for s in &results.0 {
            let (least, greatest) = s.spread();
            let (p50, p99, rate) = (s.p50(), s.quantile(0.99), s.rate());
            let _ = write!(self.body, "| {} | {p50:.1} | {p99:.1} | {least:.1}–{greatest:.1} | {rate:.0} |", s.name);
            for base in &bases {
                let (ratio, least, greatest) = s.ratio(base);
                let _ = write!(self.body, " {ratio:.2} ({least:.2}–{greatest:.2}) |");
            }
            self.body.push('\n');
        }
    }

    /// A row for each target, as throughput for samples of that many bytes.
    pub fn throughputs(&mut self, what: &str, results: &Results, size: usize) {
        let _ = writeln!(
            self.body,
            "\n| {what} | MB/s at p50 | MB/s, least and greatest round | p50 µs |\n|---|--:|--:|--:|"
        );
        for s in &results.0 {
            let rate = |us: f64| size as f64 / us;
            let (least, greatest) = s.spread();
            let _ = writeln!(
                self.body,
                "| {} | {:.0} | {:.0}–{:.0} | {:.0} |",
                s.name,
                rate(s.p50()),
                rate(greatest),
                rate(least),
                s.p50()
            );
        }
    }

    pub fn goal(&mut self, what: &'static str, goal: impl Into<String>, measured: impl Into<String>, met: bool) {
        self.goals.push(Goal { what, goal: goal.into(), measured: measured.into(), met: Some(met) });
    }

    pub fn unmeasured(&mut self, what: &'static str, goal: impl Into<String>) {
        self.goals.push(Goal { what, goal: goal.into(), measured: "not measured".into(), met: None });
    }

    /// All of it.
    pub fn markdown(&self, facts: &[String]) -> String {
        let mut out = "# Benchmarks\n\nWhat `make bench` printed. All targets of a table are interleaved in one run: every round visits each in \
            another\norder, ratios are medians of the ratios within a round, with the least and the greatest in brackets.\n\n"
            .to_owned();
        for fact in facts {
            let _ = writeln!(out, "- {fact}");
        }
        out.push_str("\n## Goals\n\n| what | goal | measured | met |\n|---|---|---|---|\n");
        for g in &self.goals {
            let met = match g.met {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "–",
            };
            let _ = writeln!(out, "| {} | {} | {} | {met} |", g.what, g.goal, g.measured);
        }
        out.push_str(&self.body);
        out.push_str(include_str!("causes.md"));
        out
    }
}
