//! Lists of sessions: filters, orders and pages.

use culm::{
    model::{KindFilter, NewSession, Order, Session, SessionFilter},
    storage::Storage,
};

use crate::support::*;

pub(super) async fn roots_are_listed_by_default_newest_activity_first(storage: &dyn Storage) {
    for name in ["a", "b", "c"] {
        create(storage, name).await;
    }
    child(storage, "a", "below").await;
    say(storage, "b", &["hello"]).await;
    assert_eq!(listed(storage, &SessionFilter::default()).await, ["b", "c", "a"]);
}

pub(super) async fn each_filter_leaves_out_what_it_says(storage: &dyn Storage) {
    let a = create(storage, "a").await;
    let b =
        storage.create_session(NewSession { model: Some("m".into()), pinned: true, ..new("b") }, None).await.unwrap();
    child(storage, "a", "a1").await;
    child(storage, "a1", "a2").await;
    say(storage, "a", &["hello"]).await;
    let a_active = read(storage, "a").await.last_activity_at;
    let none = SessionFilter::default;
    let kind = |kind| SessionFilter { kind: Some(kind), ..none() };
    let cases: Vec<(SessionFilter, &[&str])> = vec![
        (none(), &["a", "b"]),
        (kind(KindFilter::Child), &["a1", "a2"]),
        (kind(KindFilter::All), &["a", "a1", "a2", "b"]),
        (SessionFilter { parent: Some(id("a")), ..none() }, &["a1"]),
        (SessionFilter { root: Some(id("a")), ..none() }, &["a", "a1", "a2"]),
        (SessionFilter { root: Some(id("a")), ..kind(KindFilter::Child) }, &["a1", "a2"]),
        (SessionFilter { root: Some(id("b")), parent: Some(id("a")), ..none() }, &[]),
        (SessionFilter { parent: Some(id("nobody")), ..none() }, &[]),
        (SessionFilter { pinned: Some(true), ..none() }, &["b"]),
        (SessionFilter { pinned: Some(false), ..none() }, &["a"]),
        (SessionFilter { model: Some("m".into()), ..none() }, &["b"]),
        (SessionFilter { running: Some(true), ..none() }, &[]),
        (SessionFilter { running: Some(false), ..none() }, &["a", "b"]),
        (SessionFilter { created_after: Some(b.created_at), ..none() }, &["b"]),
        (SessionFilter { created_before: Some(b.created_at), ..none() }, &["a"]),
        (SessionFilter { created_after: Some(a.created_at), created_before: Some(a.created_at), ..none() }, &[]),
        (SessionFilter { active_after: Some(a_active), ..none() }, &["a"]),
        (SessionFilter { active_before: Some(a_active), ..none() }, &["b"]),
    ];
    for (filter, wanted) in cases {
        for order in [Order::Activity, Order::Created] {
            let filter = SessionFilter { order: Some(order), ..filter.clone() };
            let mut found = listed(storage, &filter).await;
            found.sort();
            assert_eq!(found, wanted, "{filter:?}");
        }
    }
}

pub(super) async fn titles_are_found_by_words_that_are_never_syntax(storage: &dyn Storage) {
    for (name, text) in
        [("a", "fix foo-bar in src/main.rs"), ("b", "don't NOT panic"), ("c", "café"), ("d", "数据库连接")]
    {
        create(storage, name).await;
        storage.update_session(&id(name), title(text), None).await.unwrap();
    }
    let cases: [(&str, &[&str]); 23] = [
        ("ain", &["a"]),
        ("AR-ix", &[]),
        ("OO-BA", &["a"]),
        ("rc/ma foo", &["a"]),
        ("ix foo", &["a"]),
        ("/", &["a"]),
        ("n'", &["b"]),
        ("FÉ", &["c"]),
        ("O", &["b", "a"]),
        ("foo-bar", &["a"]),
        ("src/main.rs", &["a"]),
        ("main fix", &["a"]),
        ("mai", &["a"]),
        ("don't", &["b"]),
        ("NOT", &["b"]),
        ("AND hello", &[]),
        ("cafe", &["c"]),
        ("据库", &["d"]),
        ("连", &["d"]),
        ("title:fix", &[]),
        ("***", &[]),
        ("", &[]),
        ("\"", &[]),
    ];
    for (q, wanted) in cases {
        let filter = SessionFilter { q: Some(q.into()), ..SessionFilter::default() };
        assert_eq!(listed(storage, &filter).await, wanted, "{q}");
    }
}

pub(super) async fn the_order_of_creation_does_not_move(storage: &dyn Storage) {
    for name in ["a", "b", "c"] {
        create(storage, name).await;
    }
    say(storage, "a", &["hello"]).await;
    let filter = SessionFilter { order: Some(Order::Created), ..SessionFilter::default() };
    assert_eq!(listed(storage, &filter).await, ["c", "b", "a"]);
}

pub(super) async fn pages_lose_nothing_and_repeat_nothing_while_sessions_are_added(storage: &dyn Storage) {
    create(storage, "root").await;
    for n in 0..11 {
        create(storage, &format!("old-{n}")).await;
        child(storage, "root", &format!("child-{n}")).await;
    }
    let old = all_ids(storage).await;
    let filters = [
        (everything(), 23),
        (SessionFilter { order: Some(Order::Created), ..everything() }, 23),
        (SessionFilter { parent: Some(id("root")), ..SessionFilter::default() }, 11),
        (SessionFilter { root: Some(id("root")), order: Some(Order::Created), ..SessionFilter::default() }, 12),
    ];
    for (round, (filter, wanted)) in filters.into_iter().enumerate() {
        let (mut seen, mut after): (Vec<Session>, _) = (Vec::new(), None);
        loop {
            let page = storage.sessions(&filter, after, 4).await.unwrap();
            assert!(page.items.len() <= 4);
            seen.extend(page.items);
            create(storage, &format!("new-{round}-{}", seen.len())).await;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut ids: Vec<String> = seen.iter().map(|s| s.id.to_string()).filter(|id| old.contains(id)).collect();
        assert_eq!(ids.len(), wanted, "{filter:?}");
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), wanted, "{filter:?}");
    }
}
