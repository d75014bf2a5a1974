//! What a run found: as tables for people, and as JSON.

use std::fmt::{self, Write};

use serde::Serialize;

use crate::{
    budgets::{Budget, Verdict},
    figures::Figure,
};

/// Whether each of these budgets was met.
pub(crate) fn all_met(figures: &[Figure], budgets: &[&Budget]) -> bool {
    budgets.iter().all(|budget| matches!(budget.verdict(figures), Verdict::Met(_)))
}

#[derive(Serialize)]
struct Json<'a> {
    figures: &'a [Figure],
    budgets: Vec<Judged<'a>>,
}

#[derive(Serialize)]
struct Judged<'a> {
    work: &'a str,
    figure: &'a str,
    at_most: Option<f64>,
    at_least: Option<f64>,
    value: Option<f64>,
    met: bool,
}

pub(crate) fn json(figures: &[Figure], budgets: &[&Budget]) -> serde_json::Result<String> {
    let judged = budgets.iter().map(|budget| {
        let (value, met) = match budget.verdict(figures) {
            Verdict::Met(value) => (Some(value), true),
            Verdict::Missed(value) => (Some(value), false),
            Verdict::NotMeasured => (None, false),
        };
        let Budget { work, figure, at_most, at_least, .. } = budget;
        Judged { work, figure, at_most: *at_most, at_least: *at_least, value, met }
    });
    serde_json::to_string_pretty(&Json { figures, budgets: judged.collect() })
}

/// Budgets, how costs grow, and all other figures, each as a table in Markdown.
pub(crate) fn table(figures: &[Figure], budgets: &[&Budget]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_budgets(&mut out, figures, budgets)
        .and_then(|()| write_growth(&mut out, figures))
        .and_then(|()| write_rest(&mut out, figures));
    out
}

fn write_budgets(out: &mut String, figures: &[Figure], budgets: &[&Budget]) -> fmt::Result {
    writeln!(out, "| work | budget | measured | spread | |\n| --- | --- | --- | --- | --- |")?;
    for budget in budgets {
        let figure = figures.iter().find(|figure| figure.name == budget.figure && figure.size.is_none());
        let spread = figure.map_or(String::new(), spread);
        let (value, verdict) = match budget.verdict(figures) {
            Verdict::Met(value) => (short(value), "met"),
            Verdict::Missed(value) => (short(value), "**missed**"),
            Verdict::NotMeasured => (String::new(), "not measured"),
        };
        writeln!(out, "| {} | {} | {value} | {spread} | {verdict} |", budget.work, budget.bound())?;
    }
    Ok(())
}

fn write_growth(out: &mut String, figures: &[Figure]) -> fmt::Result {
    let sized = |figure: &&Figure| figure.size.is_some();
    writeln!(out, "\n| how costs grow | with the size |\n| --- | --- |")?;
    for name in first_names(figures.iter().filter(sized)) {
        let of_name: Vec<&Figure> = figures.iter().filter(sized).filter(|figure| figure.name == name).collect();
        let steps = of_name.iter().map(|figure| (figure.size.unwrap_or(0), short(figure.median)));
        let steps: Vec<String> = steps.map(|(size, value)| format!("{size}: **{value}**")).collect();
        writeln!(
            out,
            "| {name}, {} | {} |",
            of_name.first().map_or("", |figure| figure.unit.short()),
            steps.join(", ")
        )?;
    }
    Ok(())
}

fn write_rest(out: &mut String, figures: &[Figure]) -> fmt::Result {
    writeln!(out, "\n| figure | median | spread |\n| --- | --- | --- |")?;
    for figure in figures.iter().filter(|figure| figure.size.is_none()) {
        writeln!(out, "| {} | {} {} | {} |", figure.name, short(figure.median), figure.unit.short(), spread(figure))?;
    }
    Ok(())
}

/// Each name once, in the order in which they came.
fn first_names<'a>(figures: impl Iterator<Item = &'a Figure>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for figure in figures {
        if !names.contains(&figure.name.as_str()) {
            names.push(figure.name.as_str());
        }
    }
    names
}

fn spread(figure: &Figure) -> String {
    match figure.repeats {
        1 => String::new(),
        _ => format!("{} – {}", short(figure.least), short(figure.greatest)),
    }
}

/// Three digits, or all that are before the point.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Unit;

    fn budget(figure: &str, most: f64) -> Budget {
        Budget {
            work: figure.into(),
            figure: figure.into(),
            at_most: Some(most),
            at_least: None,
            peer: None,
            whole: false,
        }
    }

    #[test]
    fn all_is_met_when_each_is() {
        let figures = [Figure::new("a.b", Unit::Times, &[1.0]), Figure::new("a.c", Unit::Times, &[3.0])];
        let (b, c, d) = (budget("a.b", 2.0), budget("a.c", 2.0), budget("a.d", 2.0));
        assert!(all_met(&figures, &[&b]));
        assert!(!all_met(&figures, &[&b, &c]));
        assert!(!all_met(&figures, &[&b, &d]));
    }

    #[test]
    fn tables_show_what_was_missed_and_how_costs_grow() {
        let figures = [
            Figure::new("a.b", Unit::Times, &[1.0, 2.5, 3.0]),
            Figure::new("a.one", Unit::Microseconds, &[1234.5]).of_size(10),
            Figure::new("a.one", Unit::Microseconds, &[5.0]).of_size(100),
        ];
        let table = table(&figures, &[&budget("a.b", 2.0), &budget("a.d", 2.0)]);
        assert!(table.contains("| a.b | ≤ 2 | 2.50 | 1.00 – 3.00 | **missed** |"), "{table}");
        assert!(table.contains("| a.d | ≤ 2 |  |  | not measured |"), "{table}");
        assert!(table.contains("| a.one, µs | 10: **1234**, 100: **5.00** |"), "{table}");
    }
}
