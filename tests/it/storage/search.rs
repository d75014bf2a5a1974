//! Search: what people type and what it finds; filters, orders, pages, snippets.

use culm::{
    model::{
        Archived, HitType, KindFilter, NewMessage, Role, SearchHit, SearchIn, SearchOrder, SearchPage, SearchQuery,
        SessionUpdate, Timestamp,
    },
    storage::Storage,
};

use crate::support::*;

fn asked(q: &str) -> SearchQuery {
    SearchQuery { q: q.into(), ..SearchQuery::default() }
}

fn newest(q: &str) -> SearchQuery {
    SearchQuery { order: Some(SearchOrder::Newest), ..asked(q) }
}

async fn page(storage: &dyn Storage, query: &SearchQuery) -> SearchPage {
    storage.search(query, None, 200).await.unwrap_or_else(|error| panic!("{}: {error}", query.q))
}

/// The ids of the messages, or sessions, of a page.
fn ids(page: &SearchPage) -> Vec<String> {
    let id = |hit: &SearchHit| match &hit.message {
        Some(message) => message.id.to_string(),
        None => hit.session.id.to_string(),
    };
    page.hits.iter().map(id).collect()
}

async fn found(storage: &dyn Storage, query: &SearchQuery) -> Vec<String> {
    let mut ids = ids(&page(storage, query).await);
    ids.sort();
    ids
}

/// A snippet with brackets around what was found.
fn marked(hit: &SearchHit) -> String {
    let mut marked = String::new();
    for (place, c) in hit.snippet.text.chars().enumerate() {
        hit.snippet.ranges.iter().filter(|range| range.1 == place).for_each(|_| marked.push(']'));
        hit.snippet.ranges.iter().filter(|range| range.0 == place).for_each(|_| marked.push('['));
        marked.push(c);
    }
    let end = hit.snippet.text.chars().count();
    hit.snippet.ranges.iter().filter(|range| range.1 == end).for_each(|_| marked.push(']'));
    marked
}

async fn write(storage: &dyn Storage, session: &str, id: &str, text: &str) {
    append(storage, session, vec![NewMessage { id: Some(mid(id)), ..NewMessage::text(Role::User, text) }]).await;
}

/// Messages under their ids.
const TEXTS: [(&str, &str); 12] = [
    ("deploy", "The quick deploy of the Server failed, twice."),
    ("order", "failed quick"),
    ("path", "see src/main.rs:12 and foo-bar, foo_baz; mail user@host"),
    ("dont", "I don't know a::b nor C++, issue #123"),
    ("cafe", "Café ÑANDÚ Straße naïve"),
    ("zh", "修复数据库连接错误"),
    ("ja", "データベースの接続を直す"),
    ("ko", "데이터베이스 연결 오류"),
    ("mixed", "用Rust写的server很快"),
    ("quotes", "she said \"hello world\" AND left NOT"),
    ("emoji", "done 🎉 at last"),
    ("long", "internationalization"),
];

/// What people type, and which messages they mean.
const CASES: &[(&str, &[&str])] = &[
    ("deploy", &["deploy"]),
    ("DEPLOY server", &["deploy"]),
    ("server deploy", &["deploy"]),
    ("quick failed", &["deploy", "order"]),
    ("\"quick deploy\"", &["deploy"]),
    ("\"deploy quick\"", &[]),
    ("“quick deploy”", &["deploy"]),
    ("\"quick dep", &[]),
    ("quick -deploy", &["order"]),
    ("quick -\"quick deploy\"", &["order"]),
    ("quick -dep*", &["order"]),
    ("quick -d*", &["order"]),
    ("-quick", &[]),
    ("\"the quick deploy of the server failed twice\"", &["deploy"]),
    ("\"the quick deploy of the server failed twice\" -\"the quick deploy of the server failed once\"", &["deploy"]),
    ("\"deploy of the server failed twice and some more words\"", &[]),
    ("quick -\"the quick deploy of the server failed twi\"*", &["order"]),
    ("\"the quick deploy of the server failed twi\"*", &["deploy"]),
    ("\"i don't know a b nor c issue 12\"*", &["dont"]),
    ("\"i don't know a b nor c issue 13\"*", &[]),
    ("\"i don't know a b nor d issue 123\"", &[]),
    ("dep*", &["deploy"]),
    ("depl*", &["deploy"]),
    ("deplo*", &["deploy"]),
    ("de*", &["deploy"]),
    ("d*", &["deploy", "dont", "emoji"]),
    ("dep", &[]),
    ("\"quick dep\"*", &["deploy"]),
    ("\"quick d\"*", &["deploy"]),
    ("fa* q*", &["deploy", "order"]),
    ("internationali*", &["long"]),
    ("src/main.rs", &["path"]),
    ("main.rs", &["path"]),
    ("src/ma*", &["path"]),
    ("foo-bar", &["path"]),
    ("baz-foo", &[]),
    ("foo_baz", &["path"]),
    ("user@host", &["path"]),
    ("src/main.rs:12", &["path"]),
    ("don't", &["dont"]),
    ("a::b", &["dont"]),
    ("C++", &["dont"]),
    ("#123", &["dont"]),
    ("--12", &["path"]),
    ("cafe", &["cafe"]),
    ("CAFÉ", &["cafe"]),
    ("cafe\u{301}", &["cafe"]),
    ("nandu", &["cafe"]),
    ("straße", &["cafe"]),
    ("naive", &["cafe"]),
    ("数据库", &["zh"]),
    ("据", &["zh"]),
    ("数据 错误", &["zh"]),
    ("数错", &[]),
    ("数据*", &["zh"]),
    ("ベース", &["ja"]),
    ("接続", &["ja"]),
    ("베이", &["ko"]),
    ("오류 데이터베이스", &["ko"]),
    ("用rust", &["mixed"]),
    ("server很", &["mixed"]),
    ("AND", &["path", "quotes"]),
    ("hello AND left", &["quotes"]),
    ("NOT", &["quotes"]),
    ("\"hello world\" left", &["quotes"]),
    ("hello OR deploy", &[]),
    ("NEAR(quick deploy)", &[]),
    ("content:deploy", &[]),
    ("xroleuser", &[]),
    ("xro*", &[]),
    ("xsession1", &[]),
    ("xsession*", &[]),
    ("^deploy", &["deploy"]),
    ("deploy +", &["deploy"]),
    ("deploy 🎉 ()", &[]),
    ("done 🎉 ()", &["emoji"]),
    ("done 🎉", &["emoji"]),
    ("\tdeploy\n", &["deploy"]),
    ("🎉", &["emoji"]),
    ("🎊", &[]),
    ("done 🎊", &[]),
    ("***", &[]),
    ("\"", &[]),
    ("\"\"", &[]),
    ("- -- + *", &[]),
    ("{ } : ^ ( )", &[]),
];

pub(super) async fn what_people_type_finds_what_they_mean(storage: &dyn Storage) {
    create(storage, "s").await;
    storage.update_session(&id("s"), title("untitled"), None).await.unwrap();
    for (id, text) in TEXTS {
        write(storage, "s", id, text).await;
    }
    for (q, wanted) in CASES {
        for query in [asked(q), newest(q)] {
            let found = page(storage, &query).await;
            let mut all = if found.relaxed { Vec::new() } else { ids(&found) };
            all.sort();
            assert_eq!(all, *wanted, "{q}");
        }
    }
}

pub(super) async fn a_title_a_summary_and_a_message_are_found_in_one_ranking(storage: &dyn Storage) {
    for name in ["a", "b", "c"] {
        create(storage, name).await;
    }
    storage.update_session(&id("a"), title("数据库 deadline"), None).await.unwrap();
    let mut whole = storage.load_session(&id("b")).await.unwrap().unwrap();
    whole.session.conversation_summary = Some(serde_json::json!({ "content": "About the deadline 接続" }).into());
    storage.save_session(whole.changes()).await.unwrap();
    write(storage, "c", "m", "no deadline").await;
    for query in [asked("deadline"), newest("deadline")] {
        assert_eq!(found(storage, &query).await, ["a", "b", "m"]);
    }
    let hits = page(storage, &asked("据库")).await.hits;
    assert_eq!((hits.len(), hits[0].kind, marked(&hits[0]).as_str()), (1, HitType::Session, "数[据库] deadline"));
    let hits = page(storage, &asked("接続")).await.hits;
    assert_eq!((hits.len(), marked(&hits[0]).as_str()), (1, "About the deadline [接続]"));
    let hit = page(storage, &asked("no deadline")).await.hits.remove(0);
    assert_eq!((hit.session.id, hit.session.title.as_str(), hit.session.pinned), (id("c"), "c", false));
    let message = hit.message.unwrap();
    assert_eq!((message.id, message.seq, message.role), (mid("m"), 1, Role::User));
    assert!(hit.score > 0.0);
}

/// A root `a` over `a1`, and a root `b`, which is pinned: each says "word" as user and as assistant.
async fn three_sessions(storage: &dyn Storage) {
    create(storage, "a").await;
    child(storage, "a", "a1").await;
    create(storage, "b").await;
    pin(storage, "b").await;
    for name in ["a", "a1", "b"] {
        let user = NewMessage { id: Some(mid(&format!("{name}-user"))), ..NewMessage::text(Role::User, "a word") };
        let assistant = NewMessage {
            id: Some(mid(&format!("{name}-assistant"))),
            reasoning: Some("a thought 思考".into()),
            ..calls("another word", &["c"])
        };
        append(storage, name, vec![user, assistant]).await;
    }
}

pub(super) async fn each_filter_of_a_search_leaves_out_what_it_says(storage: &dyn Storage) {
    three_sessions(storage).await;
    let word = || asked("word");
    let b_created = read(storage, "b").await.created_at;
    let late = history(storage, "b").await[0].created_at;
    let all = ["a-assistant", "a-user", "a1-assistant", "a1-user", "b-assistant", "b-user"];
    let cases: Vec<(SearchQuery, &[&str])> = vec![
        (word(), &all),
        (SearchQuery { session: Some(id("a1")), ..word() }, &["a1-assistant", "a1-user"]),
        (SearchQuery { session: Some(id("nobody")), ..word() }, &[]),
        (SearchQuery { root: Some(id("a")), ..word() }, &all[..4]),
        (SearchQuery { root: Some(id("a")), kind: Some(KindFilter::Child), ..word() }, &all[2..4]),
        (SearchQuery { root: Some(id("b")), session: Some(id("a1")), ..word() }, &[]),
        (SearchQuery { role: Some(Role::User), ..word() }, &["a-user", "a1-user", "b-user"]),
        (SearchQuery { role: Some(Role::Tool), ..word() }, &[]),
        (SearchQuery { kind: Some(KindFilter::Child), ..word() }, &all[2..4]),
        (SearchQuery { kind: Some(KindFilter::Root), role: Some(Role::User), ..word() }, &["a-user", "b-user"]),
        (SearchQuery { kind: Some(KindFilter::All), ..word() }, &all),
        (SearchQuery { pinned: Some(true), ..word() }, &all[4..]),
        (SearchQuery { pinned: Some(false), ..word() }, &all[..4]),
        (SearchQuery { archived: Some(Archived::False), ..word() }, &all),
        (SearchQuery { archived: Some(Archived::True), ..word() }, &[]),
        (SearchQuery { archived: Some(Archived::All), ..word() }, &all),
        (SearchQuery { after: Some(late), ..word() }, &all[4..]),
        (SearchQuery { before: Some(late), ..word() }, &all[..4]),
        (SearchQuery { after: Some(Timestamp(late.0 + 90_000_000_000)), ..word() }, &[]),
        (SearchQuery { before: Some(Timestamp(1)), ..word() }, &[]),
        (asked("thought"), &[]),
        (asked("read"), &[]),
        (
            SearchQuery {
                within: Some(SearchIn { reasoning: true, tools: false }),
                session: Some(id("b")),
                ..asked("思 word")
            },
            &["b-assistant"],
        ),
        (
            SearchQuery {
                within: Some(SearchIn { reasoning: false, tools: true }),
                session: Some(id("b")),
                ..asked("read")
            },
            &["b-assistant"],
        ),
        (SearchQuery { session: Some(id("b")), ..asked("b") }, &["b"]),
        (SearchQuery { root: Some(id("a")), ..asked("a1") }, &["a1"]),
        (SearchQuery { kind: Some(KindFilter::Root), ..asked("a1") }, &[]),
        (SearchQuery { pinned: Some(true), ..asked("b") }, &["b"]),
        (SearchQuery { role: Some(Role::User), ..asked("b") }, &[]),
        (SearchQuery { after: Some(b_created), session: Some(id("b")), ..asked("b") }, &["b"]),
        (SearchQuery { before: Some(b_created), ..asked("b") }, &[]),
    ];
    for (query, wanted) in cases {
        for order in [SearchOrder::Relevance, SearchOrder::Newest] {
            let query = SearchQuery { order: Some(order), ..query.clone() };
            assert_eq!(found(storage, &query).await, wanted, "{query:?}");
        }
    }
}

pub(super) async fn relevance_prefers_what_says_it_more_and_of_equals_the_newer(storage: &dyn Storage) {
    create(storage, "s").await;
    storage.update_session(&id("s"), title("untitled"), None).await.unwrap();
    for (name, text) in [
        ("once", "rust is a language for systems and more than that"),
        ("thrice", "rust and rust again: rust in a text of some length"),
        ("old", "the parser of rust fails"),
        ("new", "the parser of rust fails"),
        ("apart", "rust has a fine parser and it fails now and then"),
        ("together", "the rust parser fails now and then as some other do"),
    ] {
        write(storage, "s", name, text).await;
    }
    let best = |page: SearchPage| ids(&page);
    assert_eq!(best(page(storage, &asked("rust")).await)[0], "thrice");
    assert_eq!(best(page(storage, &asked("\"parser of rust\"")).await), ["new", "old"]);
    assert_eq!(best(page(storage, &asked("rust parser")).await)[0], "together");
    assert_eq!(best(page(storage, &newest("rust")).await), ["together", "apart", "new", "old", "thrice", "once"]);
}

pub(super) async fn pages_of_a_search_lose_nothing_and_repeat_nothing_while_messages_come(storage: &dyn Storage) {
    for session in 0..3 {
        create(storage, &format!("word-{session}")).await;
        let texts: Vec<String> = (0..7).map(|n| format!("word {session} {n}{}", " filler".repeat(n))).collect();
        say(storage, &format!("word-{session}"), &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    for order in [SearchOrder::Relevance, SearchOrder::Newest] {
        let query = SearchQuery { order: Some(order), ..asked("word") };
        let wanted = ids(&page(storage, &query).await);
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = storage.search(&query, after, 5).await.unwrap();
            assert!(page.hits.len() <= 5 && !page.bounded);
            seen.extend(ids(&page));
            let text = format!("word {order:?} {}", seen.len());
            say(storage, "word-0", &[&text]).await;
            create(storage, &text).await;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, wanted, "{order:?}");
    }
}

pub(super) async fn a_snippet_shows_the_place_and_is_cut_between_words(storage: &dyn Storage) {
    create(storage, "s").await;
    let long = format!("{}needle here {}", "straw ".repeat(500), "more hay ".repeat(500));
    let chinese = format!("{}针在这里{}", "草".repeat(500), "干草".repeat(500));
    let one_word = format!("{} needleless", "x".repeat(5000));
    for (id, text) in [
        ("long", long.as_str()),
        ("zh", &chinese),
        ("one", &one_word),
        ("short", "the\nNeedle Needles, needle-case"),
        ("emoji", "🎉🎉 e\u{301}toile pin 🎉"),
    ] {
        write(storage, "s", id, text).await;
    }
    let snippet = async |q: &str, id: &str| {
        let page = page(storage, &asked(q)).await;
        page.hits.into_iter().find(|hit| hit.message.as_ref().is_some_and(|m| m.id == mid(id))).unwrap()
    };
    let hit = snippet("needle", "long").await;
    assert!(marked(&hit).starts_with("…straw straw") && marked(&hit).contains("straw [needle] here more hay"));
    assert!(hit.snippet.text.ends_with("hay…") || hit.snippet.text.ends_with("more…"), "{}", hit.snippet.text);
    let hit = snippet("在这", "zh").await;
    assert!(marked(&hit).contains("草针[在这]里干"), "{}", marked(&hit));
    assert!(!hit.snippet.text.contains('\u{200b}'));
    assert_eq!(marked(&snippet("needle", "short").await), "the\n[Needle] Needles, [needle]-case");
    assert_eq!(marked(&snippet("needle*", "short").await), "the\n[Needle] [Needles], [needle]-case");
    assert_eq!(marked(&snippet("\"needle needles\" case", "short").await), "the\n[Needle Needles], needle-[case]");
    assert_eq!(marked(&snippet("etoile pin", "emoji").await), "🎉🎉 [e\u{301}toile] [pin] 🎉");
    for (q, id) in [("needle", "long"), ("草", "zh"), ("needleless", "one"), ("x*", "one")] {
        let length = snippet(q, id).await.snippet.text.chars().count();
        assert!(length <= 320, "{q}: {length}");
    }
    assert!(marked(&snippet("needleless", "one").await).contains("[needleless]"));
}

pub(super) async fn relevance_among_very_many_is_bounded_and_says_so(storage: &dyn Storage) {
    create(storage, "s").await;
    for batch in 0..3 {
        let texts: Vec<String> = (0..500).map(|n| format!("common {batch} {n}")).collect();
        say(storage, "s", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let page = storage.search(&asked("common"), None, 10).await.unwrap();
    assert_eq!((page.hits.len(), page.bounded), (10, true));
    for query in [asked("common"), newest("common")] {
        let (mut seen, mut after) = (std::collections::HashSet::new(), None);
        loop {
            let page = storage.search(&query, after, 200).await.unwrap();
            seen.extend(ids(&page));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 1500, "{query:?}");
    }
    let page = storage.search(&newest("common"), None, 10).await.unwrap();
    assert_eq!((page.hits.len(), page.bounded), (10, false));
    let rare = storage.search(&asked("common 0 499"), None, 10).await.unwrap();
    assert_eq!((ids(&rare), rare.bounded, rare.next), (vec!["common 0 499".to_owned()], false, None));
}

pub(super) async fn a_search_sees_a_write_as_soon_as_it_returns_and_no_more_what_is_gone(storage: &dyn Storage) {
    create(storage, "s").await;
    append(storage, "s", vec![said(Role::Assistant, "first 数据")]).await;
    assert_eq!(found(storage, &asked("据")).await, ["first 数据"]);
    storage.edit_message(&id("s"), &mid("first 数据"), "second 接続".into(), None).await.unwrap();
    assert!(found(storage, &asked("据")).await.is_empty());
    assert_eq!(found(storage, &asked("接続")).await, ["first 数据"]);
    storage.update_session(&id("s"), title("renamed 题目"), None).await.unwrap();
    assert_eq!(found(storage, &asked("题")).await, ["s"]);
    storage
        .update_session(&id("s"), SessionUpdate { title: Some("again".into()), ..SessionUpdate::default() }, None)
        .await
        .unwrap();
    assert!(found(storage, &asked("题")).await.is_empty());
    storage.delete_session(&id("s"), Default::default()).await.unwrap();
    assert!(found(storage, &asked("again")).await.is_empty() && found(storage, &asked("second")).await.is_empty());
}
