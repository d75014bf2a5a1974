//! Fields that some providers refuse and others want: what one was found to take is remembered for as long as the server
//! runs. It knows nothing of connections.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::refusal::Broken;

/// Which of the fields a request has that not all providers know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// `stream_options`, which asks for a count of the tokens.
    pub(super) usage: bool,
    /// What the model thought, as `reasoning_content`.
    pub(super) reasoning: bool,
    /// The vendor's own fields of earlier messages.
    pub(super) extra: bool,
}

/// What a provider takes.
#[derive(Debug)]
pub(super) struct Manners {
    usage: AtomicU8,
    reasoning: AtomicBool,
    extra: AtomicBool,
}

const UNKNOWN: u8 = 0;
const TAKEN: u8 = 1;
const REFUSED: u8 = 2;

/// Words of a refusal that may be about a field which it does not name.
const UNNAMED: [&str; 9] = [
    "unknown",
    "unrecognized",
    "unexpected",
    "extra",
    "additional propert",
    "not permitted",
    "unsupported",
    "not supported",
    "bad request",
];

impl Manners {
    /// As the settings say, until the provider says otherwise.
    pub(super) fn new(usage: bool, reasoning: bool) -> Self {
        let usage = if usage { UNKNOWN } else { REFUSED };
        Self { usage: AtomicU8::new(usage), reasoning: AtomicBool::new(reasoning), extra: AtomicBool::new(true) }
    }

    /// The form to ask in.
    pub(super) fn form(&self) -> Form {
        Form {
            usage: self.usage.load(Ordering::Relaxed) != REFUSED,
            reasoning: self.reasoning.load(Ordering::Relaxed),
            extra: self.extra.load(Ordering::Relaxed),
        }
    }

    /// A request of this form was taken.
    pub(super) fn accepts(&self, form: Form) {
        self.usage.store(if form.usage { TAKEN } else { REFUSED }, Ordering::Relaxed);
        self.reasoning.store(form.reasoning, Ordering::Relaxed);
        self.extra.store(form.extra, Ordering::Relaxed);
    }

    /// The form to ask in after a refusal, and whether that is a guess. None when the refusal is about something else.
    pub(super) fn other(&self, form: Form, broken: &Broken, extra: &[String]) -> Option<(Form, bool)> {
        if !matches!(broken.status, Some(400 | 415 | 422)) {
            return None;
        }
        let names = |name: &str| broken.said.contains(name);
        if form.usage && (names("stream_options") || names("include_usage")) {
            return Some((Form { usage: false, ..form }, false));
        }
        if !form.reasoning && names("reasoning_content") {
            return Some((Form { reasoning: true, ..form }, false));
        }
        if form.extra && extra.iter().any(|name| names(&name.to_lowercase())) && !names("missing") {
            return Some((Form { extra: false, ..form }, false));
        }
        // Some do not say which field they do not know; one that took it before means something else.
        let unknown = form.usage && self.usage.load(Ordering::Relaxed) == UNKNOWN;
        let is_field =
            broken.status == Some(422) || broken.said.trim().is_empty() || UNNAMED.iter().any(|word| names(word));
        (unknown && is_field).then_some((Form { usage: false, ..form }, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Error;

    #[test]
    fn a_refusal_about_something_else_is_told_as_it_is() {
        let manners = Manners::new(true, false);
        assert_eq!(manners.other(manners.form(), &refusal(400, "the model is not there"), &[]), None);
        assert!(manners.other(manners.form(), &refusal(400, ""), &[]).is_some());
    }

    fn refusal(status: u16, said: &str) -> Broken {
        Broken { status: Some(status), said: said.into(), ..Error::Failed(String::new()).into() }
    }

    #[test]
    fn a_field_that_is_refused_is_left_out_and_that_is_remembered() {
        let manners = Manners::new(true, false);
        let form = manners.form();
        let own = ["thought_signature".to_owned()];
        assert_eq!(manners.other(form, &refusal(401, "stream_options"), &[]), None);
        let (without, guessed) = manners.other(form, &refusal(422, "unknown field `stream_options`"), &own).unwrap();
        assert_eq!((without, guessed), (Form { usage: false, ..form }, false));
        let (without, _) = manners.other(without, &refusal(400, "unknown name thought_signature"), &own).unwrap();
        assert!(!without.extra && manners.other(without, &refusal(400, "something else"), &own).is_none());
        manners.accepts(without);
        assert_eq!(manners.form(), without);
    }

    #[test]
    fn a_field_that_was_taken_once_is_not_what_is_meant() {
        let manners = Manners::new(true, false);
        let form = manners.form();
        assert_eq!(manners.other(form, &refusal(400, "bad request"), &[]), Some((Form { usage: false, ..form }, true)));
        manners.accepts(form);
        assert_eq!(manners.other(form, &refusal(400, "bad request"), &[]), None);
        let (thinking, _) = manners.other(form, &refusal(400, "missing reasoning_content"), &[]).unwrap();
        assert!(thinking.reasoning && thinking.usage);
        assert!(!Manners::new(false, true).form().usage);
    }
}
