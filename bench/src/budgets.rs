//! Budgets: what figures must be, and whether they are.

use serde::Deserialize;

use crate::figures::Figure;

/// The most, or the least, that a figure may be.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budget {
    /// What it is about, in words.
    pub(crate) work: String,
    /// The figure's name.
    pub(crate) figure: String,
    pub(crate) at_most: Option<f64>,
    pub(crate) at_least: Option<f64>,
    /// The peer without which there is no such figure.
    pub(crate) peer: Option<String>,
    /// It holds for the sizes of a whole run alone.
    #[serde(default)]
    pub(crate) whole: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    budget: Vec<Budget>,
}

/// What became of a budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    Met(f64),
    Missed(f64),
    /// There is no such figure.
    NotMeasured,
}

/// The budgets of a file.
pub(crate) fn parse(text: &str) -> Result<Vec<Budget>, String> {
    let File { budget: budgets } = toml::from_str(text).map_err(|error| error.to_string())?;
    match budgets.iter().find(|budget| budget.at_most.is_some() == budget.at_least.is_some()) {
        Some(budget) => Err(format!("{}: one of at_most and at_least", budget.figure)),
        None => Ok(budgets),
    }
}

impl Budget {
    pub(crate) fn verdict(&self, figures: &[Figure]) -> Verdict {
        let Some(figure) = figures.iter().find(|figure| figure.name == self.figure && figure.size.is_none()) else {
            return Verdict::NotMeasured;
        };
        let value = figure.median;
        // What is no number meets nothing.
        let most = self.at_most.is_none_or(|most| value <= most);
        let least = self.at_least.is_none_or(|least| value >= least);
        if most && least { Verdict::Met(value) } else { Verdict::Missed(value) }
    }

    /// The work that the figure is of.
    pub(crate) fn of_work(&self) -> &str {
        self.figure.split_once('.').map_or(&self.figure, |(work, _)| work)
    }

    /// The bound, as people write it.
    pub(crate) fn bound(&self) -> String {
        match (self.at_most, self.at_least) {
            (Some(most), _) => format!("≤ {most}"),
            (_, Some(least)) => format!("≥ {least}"),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Unit;

    const TWO: &str = r#"
        [[budget]]
        work = "slow"
        figure = "a.slow"
        at_most = 2
        [[budget]]
        work = "many"
        figure = "a.many"
        at_least = 10.5
        peer = "bamboo"
    "#;

    fn verdict(budget: &Budget, value: f64) -> Verdict {
        budget.verdict(&[Figure::new(&budget.figure, Unit::Times, &[value])])
    }

    #[test]
    fn a_budget_is_met_up_to_its_bound() {
        let budgets = parse(TWO).unwrap();
        assert_eq!(verdict(&budgets[0], 2.0), Verdict::Met(2.0));
        assert_eq!(verdict(&budgets[0], 2.01), Verdict::Missed(2.01));
        assert_eq!(verdict(&budgets[1], 10.5), Verdict::Met(10.5));
        assert_eq!(verdict(&budgets[1], 10.4), Verdict::Missed(10.4));
        assert!(matches!(verdict(&budgets[0], f64::NAN), Verdict::Missed(_)));
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let budgets = parse(TWO).unwrap();
        assert_eq!(budgets[0].verdict(&[]), Verdict::NotMeasured);
        let of_a_size = Figure::new("a.slow", Unit::Times, &[1.0]).of_size(5);
        assert_eq!(budgets[0].verdict(&[of_a_size]), Verdict::NotMeasured);
    }

    #[test]
    fn a_budget_has_one_bound() {
        assert!(parse(&TWO.replace("at_most = 2", "")).is_err());
        assert!(parse(&TWO.replace("at_most = 2", "at_most = 2\nat_least = 1")).is_err());
        assert!(parse(&TWO.replace("at_most = 2", "at_moist = 2")).is_err());
    }

    #[test]
    fn the_budgets_of_this_repository_are_budgets() {
        let budgets = parse(include_str!("../budgets.toml")).unwrap();
        assert!(budgets.iter().all(|budget| crate::work::NAMES.contains(&budget.of_work())), "{budgets:#?}");
    }
}
