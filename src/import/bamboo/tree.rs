//! Where the sessions of a home belong: their ids here, their parents, and the order to import them in.

use std::collections::{BTreeMap, HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::walk::Found;
use crate::{
    import::{FindingKind, Report},
    model::{SessionId, hex},
};

/// A session of the home, placed.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) found: Found,
    pub(super) id: SessionId,
    /// The node that it is a child of.
    pub(super) parent: Option<usize>,
}

/// The same id for the same parts, in every import.
pub(super) fn derived(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join("\0"));
    format!("imported-{}", hex(&digest[..16]))
}

/// Gives each session an id and a parent. The second value is the order to import in: parents first.
pub(super) fn placed(found: Vec<Found>, report: &mut Report) -> (Vec<Node>, Vec<usize>) {
    let ids = ids(&found, report);
    let mut parents = parents(&found, report);
    break_cycles(&found, &mut parents, report);
    let order = parents_first(&parents);
    check_roots(&found, &parents, &order, report);
    let nodes = found.into_iter().zip(ids).zip(&parents);
    let nodes = nodes.map(|((found, id), parent)| Node { found, id, parent: *parent }).collect();
    (nodes, order)
}

/// The ids as they are, where they are ids here and nobody before has them.
fn ids(found: &[Found], report: &mut Report) -> Vec<SessionId> {
    let mut taken = HashSet::new();
    let mut id = |session: &Found| {
        let path = session.directory.display().to_string();
        let problem = match session.id.parse::<SessionId>() {
            Ok(id) if taken.insert(id.clone()) => return id,
            Ok(_) => (FindingKind::DuplicateId, "is another session's id".to_owned()),
            Err(error) => (FindingKind::InvalidId, format!("is no id here: {error}")),
        };
        let id = SessionId::stored(derived(&["session", &path, &session.id]));
        let text = format!("'{}' {}; it becomes '{id}', and the old id is kept in extra", session.id, problem.1);
        report.add(problem.0, path, text);
        taken.insert(id.clone());
        id
    };
    found.iter().map(&mut id).collect()
}

/// A parent is looked for in the session's own tree first: an id may be there twice in the home.
fn parents(found: &[Found], report: &mut Report) -> Vec<Option<usize>> {
    let (mut anywhere, mut in_tree) = (HashMap::new(), HashMap::new());
    for (index, session) in found.iter().enumerate() {
        anywhere.entry(session.id.as_str()).or_insert(index);
        // A child that has its root's id is not what its siblings mean by that id.
        in_tree.entry((session.tree.as_str(), session.id.as_str())).or_insert(index);
    }
    let root_of = |session: &Found| in_tree.get(&(session.tree.as_str(), session.tree.as_str())).copied();
    let mut parent = |session: &Found| {
        let path = session.directory.display().to_string();
        let expected = if session.below || session.parent.is_some() { "child" } else { "root" };
        if session.kind.as_deref().is_some_and(|kind| kind != expected) {
            let kind = session.kind.as_deref().unwrap_or_default();
            let text = format!("says that it is a '{kind}' and is a {expected} by its place and its parent");
            report.add(FindingKind::WrongKind, path.clone(), text);
        }
        let Some(wanted) = session.parent.as_deref() else {
            return if session.below { root_of(session) } else { None };
        };
        let parent = in_tree.get(&(session.tree.as_str(), wanted)).or_else(|| anywhere.get(wanted)).copied();
        if parent.is_none() {
            let text = format!("its parent '{wanted}' is not in the home; it becomes a root");
            report.add(FindingKind::DanglingParent, path, text);
        }
        parent
    };
    found.iter().map(&mut parent).collect()
}

/// Cuts every circle of parents at its first session, which becomes a root.
fn break_cycles(found: &[Found], parents: &mut [Option<usize>], report: &mut Report) {
    let mut walk_of = vec![usize::MAX; parents.len()];
    for start in 0..parents.len() {
        let mut at = start;
        let met_again = loop {
            if walk_of[at] != usize::MAX {
                break (walk_of[at] == start).then_some(at);
            }
            walk_of[at] = start;
            match parents[at] {
                Some(parent) => at = parent,
                None => break None,
            }
        };
        let Some(member) = met_again else { continue };
        let circle = std::iter::successors(parents[member], |at| parents[*at].filter(|_| *at != member));
        let first = circle.min().unwrap_or(member);
        parents[first] = None;
        let text = "is above itself by its parents; it becomes a root";
        report.add(FindingKind::ParentCycle, found[first].directory.display().to_string(), text);
    }
}

/// Reports sessions that name another root than the one they are below, or none.
fn check_roots(found: &[Found], parents: &[Option<usize>], order: &[usize], report: &mut Report) {
    let mut roots: Vec<usize> = (0..found.len()).collect();
    for index in order {
        let session = &found[*index];
        roots[*index] = parents[*index].map_or(*index, |parent| roots[parent]);
        let root = &found[roots[*index]].id;
        if let Some(said) = session.root.as_ref().filter(|said| *said != root) {
            let text = format!("says that its root is '{said}'; it is '{root}'");
            report.add(FindingKind::WrongRoot, session.directory.display().to_string(), text);
        }
    }
}

fn parents_first(parents: &[Option<usize>]) -> Vec<usize> {
    let mut children: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, parent) in parents.iter().enumerate() {
        if let Some(parent) = parent {
            children.entry(*parent).or_default().push(index);
        }
    }
    let mut order: Vec<usize> = (0..parents.len()).filter(|index| parents[*index].is_none()).collect();
    let mut next = 0;
    while let Some(index) = order.get(next) {
        order.extend(children.remove(index).unwrap_or_default());
        next += 1;
    }
    order
}
