//! What an import did and what it met, as text for people.

use std::{collections::BTreeMap, fmt, ops::AddAssign};

/// Findings of one kind that are kept; the rest is counted.
const KEPT: u64 = 1000;

/// How many of a thing an import added, and how many it did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// New here.
    pub added: u64,
    /// Here before.
    pub present: u64,
    /// Not imported; a finding says why.
    pub skipped: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.added += more.added;
        self.present += more.present;
        self.skipped += more.skipped;
    }
}

macro_rules! finding_kinds {
    ($($(#[$doc:meta])* $name:ident => $words:literal,)*) => {
        /// What sort of thing was met.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FindingKind { $($(#[$doc])* $name,)* }

        impl fmt::Display for FindingKind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $words,)* })
            }
        }
    };
}

finding_kinds! {
    /// The index is not there or cannot be read.
    NoIndex => "no index",
    /// The index names a session that is not on disk.
    OnlyInIndex => "only in the index",
    /// A session on disk is not in the index.
    NotInIndex => "not in the index",
    /// The index has the session in another place.
    OtherPlaceInIndex => "elsewhere in the index",
    /// A file or directory could not be read.
    Unreadable => "unreadable",
    /// A file is not the JSON that it should be.
    InvalidJson => "invalid JSON",
    /// A file was read after broken characters in it were replaced.
    Repaired => "repaired",
    /// A file or message is too large to import.
    TooLarge => "too large",
    /// A symbolic link was not followed.
    SymbolicLink => "symbolic link",
    /// What an interrupted write left behind.
    TemporaryFile => "temporary file",
    /// A file or directory that has no meaning here.
    UnknownFile => "unknown file",
    /// An id that cannot be used as it is.
    InvalidId => "invalid id",
    /// An id that another session, attachment or message has.
    DuplicateId => "duplicate id",
    /// A message that is there twice.
    DuplicateMessage => "duplicate message",
    /// A message without an id or a time.
    IncompleteMessage => "incomplete message",
    /// A parent that is not there.
    DanglingParent => "dangling parent",
    /// A session that is above itself.
    ParentCycle => "parent cycle",
    /// A root that is not the session's, or none.
    WrongRoot => "wrong root",
    /// A kind that is not the session's.
    WrongKind => "wrong kind",
    /// A time that cannot be read.
    InvalidTime => "invalid time",
    /// A value of an unexpected type.
    UnexpectedValue => "unexpected value",
    /// A text with NUL characters.
    NulCharacter => "NUL character",
    /// Keys that nobody here knows.
    UnknownKey => "unknown key",
    /// A session that was deleted here.
    Deleted => "deleted",
    /// A session that the storage refused.
    Refused => "refused",
}

/// Something that is not as it should be, and what was made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its sort.
    pub kind: FindingKind,
    /// Where, from the home on.
    pub path: String,
    /// A sentence.
    pub text: String,
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Sessions.
    pub sessions: Count,
    /// Messages.
    pub messages: Count,
    /// Attachments.
    pub attachments: Count,
    /// Records of token usage.
    pub usage_records: Count,
    /// What was met, in the order of meeting; at most a thousand of each kind.
    pub findings: Vec<Finding>,
    /// How many findings of each kind there were, kept or not.
    pub found: BTreeMap<FindingKind, u64>,
}

impl Report {
    pub(super) fn add(&mut self, kind: FindingKind, path: impl Into<String>, text: impl Into<String>) {
        let found = self.found.entry(kind).or_default();
        *found += 1;
        if *found <= KEPT {
            self.findings.push(Finding { kind, path: path.into(), text: text.into() });
        }
    }

    /// Takes over what was done and met in a part of the import.
    pub(super) fn absorb(&mut self, part: Self) {
        self.sessions += part.sessions;
        self.messages += part.messages;
        self.attachments += part.attachments;
        self.usage_records += part.usage_records;
        for finding in part.findings {
            self.add(finding.kind, finding.path, finding.text);
        }
        for (kind, found) in part.found.into_iter().filter(|(_, found)| *found > KEPT) {
            *self.found.entry(kind).or_default() += found - KEPT;
        }
    }
}

/// Names of files come from elsewhere and must not steer a terminal.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.kind, printable(&self.path), printable(&self.text))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dry_run {
            writeln!(f, "Dry run: nothing was changed.")?;
        }
        let counts = [
            ("sessions", self.sessions),
            ("messages", self.messages),
            ("attachments", self.attachments),
            ("usage records", self.usage_records),
        ];
        for (name, Count { added, present, skipped }) in counts {
            writeln!(f, "{name:<14} {added:>8} added, {present:>8} already there, {skipped:>8} skipped")?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        for (kind, found) in self.found.iter().filter(|(_, found)| **found > KEPT) {
            writeln!(f, "{kind}: {} more", found - KEPT)?;
        }
        Ok(())
    }
}
