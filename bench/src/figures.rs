//! Figures: medians with their spread.

use serde::Serialize;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Microseconds,
    Milliseconds,
    PerSecond,
    /// A ratio of two figures of one run.
    Times,
    Mebibytes,
}

impl Unit {
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::PerSecond => "/s",
            Self::Times => "×",
            Self::Mebibytes => "MiB",
        }
    }
}

/// A figure: the median of a value of each repeat, and the least and the greatest of these.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// The work's name, a dot, and what of it.
    pub(crate) name: String,
    /// How large the work was, where that differs between figures of one name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<usize>,
    pub(crate) unit: Unit,
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
    pub(crate) repeats: usize,
}

impl Figure {
    pub(crate) fn new(name: &str, unit: Unit, values: &[f64]) -> Self {
        let name = name.to_owned();
        let (least, greatest) = (percentile(values, 0.0), percentile(values, 1.0));
        Self { name, size: None, unit, median: median(values), least, greatest, repeats: values.len() }
    }

    pub(crate) fn of_size(self, size: usize) -> Self {
        Self { size: Some(size), ..self }
    }
}

/// The middle value; of an even number, the mean of both.
pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The value that this share of all is not above.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Ratios of values of the same repeats.
pub(crate) fn ratios(above: &[f64], below: &[f64]) -> Vec<f64> {
    above.iter().zip(below).map(|(above, below)| above / below).collect()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.99), 99.0);
        assert_eq!(percentile(&hundred, 0.5), 50.0);
        assert_eq!((percentile(&hundred, 0.0), percentile(&hundred, 1.0)), (1.0, 100.0));
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
    }

    #[test]
    fn a_figure_has_its_spread_and_ratios_are_of_one_repeat() {
        let figure = Figure::new("a.b", Unit::Times, &ratios(&[2.0, 6.0, 3.0], &[1.0, 2.0, 3.0]));
        assert_eq!((figure.median, figure.least, figure.greatest, figure.repeats), (2.0, 1.0, 3.0, 3));
    }
}
