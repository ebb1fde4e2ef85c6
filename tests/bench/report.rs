//! Medians side by side, and as ratios to the first, which is native replication.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What was measured, a row a contender.
pub(crate) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<Vec<f64>>)>,
    /// What the first row is.
    first: &'static str,
}

impl Table {
    pub(crate) fn new(title: String, columns: &[&str]) -> Self {
        Self {
            title,
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            rows: Vec::new(),
            first: "native",
        }
    }

    /// The first row is this, and not native replication.
    pub(crate) fn against(self, first: &'static str) -> Self {
        Self { first, ..self }
    }

    /// One round of one contender.
    pub(crate) fn add(&mut self, name: &str, figures: &[f64]) {
        match self.rows.iter_mut().find(|(held, _)| held == name) {
            Some((_, rounds)) => rounds.push(figures.to_vec()),
            None => self.rows.push((name.to_owned(), vec![figures.to_vec()])),
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut out = format!("\n{}\n\n| |", self.title);
        for column in &self.columns {
            let _ = write!(out, " {column} |");
        }
        let _ = write!(out, " {} / {} |\n|{}", self.columns[0], self.first, "---|".repeat(self.columns.len() + 2));
        let native = self.rows.first().map_or(1.0, |(_, rounds)| median(rounds, 0));
        for (name, rounds) in &self.rows {
            let _ = write!(out, "\n| {name} |");
            for at in 0..self.columns.len() {
                let _ = write!(out, " {:.2} |", median(rounds, at));
            }
            let _ = write!(out, " {:.2} |", median(rounds, 0) / native);
        }
        out
    }

    pub(crate) fn json(&self) -> Value {
        let row = |(name, rounds): &(String, Vec<Vec<f64>>)| {
            let medians: Vec<f64> = (0..self.columns.len()).map(|at| median(rounds, at)).collect();
            json!({"name": name, "medians": medians, "rounds": rounds})
        };
        json!({"title": self.title, "columns": self.columns, "rows": self.rows.iter().map(row).collect::<Vec<_>>()})
    }
}

fn median(rounds: &[Vec<f64>], at: usize) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().filter_map(|figures| figures.get(at).copied()).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}
