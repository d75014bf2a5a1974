//! Search of what people type beyond plain words: other scripts and forms of characters, signs, names, questions.

use culm::{
    model::{HitType, NewMessage, Role, SearchGroup, SearchIn, SearchOrder, SearchPage, SearchQuery, SessionUpdate},
    storage::Storage,
};
use unicode_normalization::UnicodeNormalization;

use crate::support::*;

fn asked(q: &str) -> SearchQuery {
    SearchQuery { q: q.into(), ..SearchQuery::default() }
}

async fn page(storage: &dyn Storage, query: &SearchQuery) -> SearchPage {
    storage.search(query, None, 200).await.unwrap_or_else(|error| panic!("{}: {error}", query.q))
}

/// The ids of the messages that were found, and of sessions, in their order.
fn ids(page: &SearchPage) -> Vec<String> {
    let id = |hit: &culm::model::SearchHit| match &hit.message {
        Some(message) => message.id.to_string(),
        None => hit.session.id.to_string(),
    };
    page.hits.iter().map(id).collect()
}

async fn found(storage: &dyn Storage, q: &str) -> Vec<String> {
    let mut ids = ids(&page(storage, &asked(q)).await);
    ids.sort();
    ids
}

async fn write(storage: &dyn Storage, session: &str, texts: &[(&str, &str)]) {
    for (id, text) in texts {
        append(storage, session, vec![NewMessage { id: Some(mid(id)), ..NewMessage::text(Role::User, *text) }]).await;
    }
}

fn decomposed(text: &str) -> String {
    text.nfd().collect()
}

pub(super) async fn composed_and_decomposed_texts_are_one(storage: &dyn Storage) {
    create(storage, "s").await;
    storage.update_session(&id("s"), title(&decomposed("Übung 테스트")), None).await.unwrap();
    for word in ["테스트", "ガギ", "café", "Ångström", "Việt", "йога", "ποίηση"] {
        let (one, other) = (format!("{word} composed"), format!("{word} decomposed"));
        let (composed, parted) = (format!("a {word}_c.txt b"), format!("a {}_d.txt b", decomposed(word)));
        write(storage, "s", &[(&one, &composed), (&other, &parted)]).await;
        for q in [word.to_owned(), decomposed(word)] {
            let found: Vec<_> = found(storage, &q).await.into_iter().filter(|id| id != "s").collect();
            assert_eq!(found, [one.clone(), other.clone()], "{q:?}");
        }
    }
    for q in ["übung", "스트"] {
        for q in [q.to_owned(), decomposed(q)] {
            assert!(found(storage, &q).await.contains(&"s".to_owned()), "{q}");
        }
    }
}

pub(super) async fn marks_do_not_split_words_and_scripts_without_spaces_match_by_part(storage: &dyn Storage) {
    create(storage, "s").await;
    let texts = [
        ("arabic", "قال مُحَمَّد كلمة"),
        ("hebrew", "אמר שָׁלוֹם לכולם"),
        ("hindi", "यह हिन्दी में है"),
        ("other hindi", "यह हनद में है"),
        ("thai", "กรุณาตรวจสอบราคาสินค้า"),
        ("lao", "ສະບາຍດີຕອນເຊົ້າ"),
        ("khmer", "សូមពិនិត្យតម្លៃទំនិញ"),
        ("burmese", "ဈေးနှုန်းစစ်ဆေးပါ"),
        ("persian", "من می\u{200c}خواهم بروم"),
        ("wide", "ＡＰＩ と ｶﾞｲﾄﾞ"),
        ("ligature", "the ﬁle is gone"),
    ];
    write(storage, "s", &texts).await;
    for (q, wanted) in [
        ("محمد", &["arabic"][..]),
        ("مُحَمَّد", &["arabic"]),
        ("שלום", &["hebrew"]),
        ("हिन्दी", &["hindi"]),
        ("हि*", &["hindi"]),
        ("हनद", &["other hindi"]),
        ("ราคา", &["thai"]),
        ("ราคา สินค้า", &["thai"]),
        ("ตอน", &[]),
        ("ຕອນ", &["lao"]),
        ("តម្លៃ", &["khmer"]),
        ("စစ်ဆေး", &["burmese"]),
        ("میخواهم", &["persian"]),
        ("api", &["wide"]),
        ("ガイド", &["wide"]),
        ("file", &["ligature"]),
    ] {
        assert_eq!(found(storage, q).await, wanted, "{q}");
    }
    let hit = page(storage, &asked("ราคา")).await.hits.remove(0);
    let (from, to) = hit.snippet.ranges[0];
    assert_eq!(hit.snippet.text.chars().skip(from).take(to - from).collect::<String>(), "ราคา");
}

pub(super) async fn signs_names_and_command_lines_are_found_as_they_are(storage: &dyn Storage) {
    create(storage, "s").await;
    storage.update_session(&id("s"), title("🔴 urgent"), None).await.unwrap();
    let texts = [
        ("knob", "fix 🔘 now"),
        ("pear", "eat a 🍐, twice 🍐"),
        ("langs", "C++ and C# code"),
        ("vitamin", "vitamin C is good"),
        ("price", "price 5€ → 6€"),
        ("family", "family 👨\u{200d}👩\u{200d}👧 here"),
        ("steps", "①②③ steps"),
        ("arrow", "call foo()->bar(x) => y"),
        ("flags", "run tar -xvf a.tgz"),
        ("no flags", "run tar on xvf files"),
        ("name", "getUserName() of HTTPServer"),
        ("names", "see ProcurementProductCategoryPropertyEntity"),
        ("mail", "user@example.com wrote #123 in $HOME, 100% sure"),
        ("numbers", "123 percent of 100 at home"),
    ];
    write(storage, "s", &texts).await;
    for (q, wanted) in [
        ("🔘", &["knob"][..]),
        ("🍐", &["pear"]),
        ("fix 🔘", &["knob"]),
        ("fix 🍐", &[]),
        ("eat -🍐", &[]),
        ("fix -🍐", &["knob"]),
        ("🔴", &["s"]),
        ("C++", &["langs"]),
        ("c#", &["langs"]),
        ("C", &["langs", "vitamin"]),
        ("good -C#", &["vitamin"]),
        ("→", &["price"]),
        ("5€", &["price"]),
        ("👨\u{200d}👩\u{200d}👧", &["family"]),
        ("②", &["steps"]),
        ("->", &["arrow"]),
        ("=>", &["arrow"]),
        ("<-", &[]),
        ("tar -xvf", &["flags"]),
        ("\"tar -xvf\"", &["flags"]),
        ("tar -run", &[]),
        ("UserName", &["name"]),
        ("HttpServer", &["name"]),
        ("CategoryProperty", &["names"]),
        ("PropertyCategory", &[]),
        ("user@example.com", &["mail"]),
        ("#123", &["mail"]),
        ("$HOME", &["mail"]),
        ("100%", &["mail"]),
        ("123", &["mail", "numbers"]),
    ] {
        for order in [SearchOrder::Relevance, SearchOrder::Newest] {
            let query = SearchQuery { order: Some(order), ..asked(q) };
            let found = page(storage, &query).await;
            let mut all = if found.relaxed { Vec::new() } else { ids(&found) };
            all.sort();
            assert_eq!(all, wanted, "{q}");
        }
    }
    let hit = page(storage, &asked("->")).await.hits.remove(0);
    assert_eq!((hit.snippet.text.as_str(), &hit.snippet.ranges[..]), ("call foo()->bar(x) => y", &[(10, 12)][..]));
}

pub(super) async fn where_nothing_has_all_words_the_best_partial_matches_follow_and_are_said_to_be(
    storage: &dyn Storage,
) {
    for name in ["upload", "other", "more"] {
        create(storage, name).await;
    }
    let upload =
        [("cause", "The S3 upload runs into its timeout after a minute"), ("cure", "raised the timeout of the upload")];
    write(storage, "upload", &upload).await;
    let other = [("weather", "how is the weather, and did we see the sun"), ("fix", "we did fix the door")];
    write(storage, "other", &other).await;
    for n in 0..20 {
        write(storage, "more", &[(&format!("filler {n}"), "the rest of the words is filler")]).await;
    }
    let first = page(storage, &asked("how did we fix the S3 upload timeout")).await;
    let places: Vec<_> = ids(&first);
    assert!(places.contains(&"cause".to_owned()) && first.relaxed, "{places:?}");
    let strict = page(storage, &asked("S3 upload timeout")).await;
    assert_eq!((ids(&strict), strict.relaxed), (vec!["cause".to_owned()], false));
    // One of two words is enough where no text has both, and where only one is anywhere; short words say too little for it.
    for (q, wanted) in [
        ("upload sunshine", &["cause", "cure", "upload"][..]),
        ("weather door", &["fix", "weather"]),
        ("zzz weather the", &["weather"]),
        ("sunshine moonshine", &[]),
    ] {
        let page = page(storage, &asked(q)).await;
        let mut found = ids(&page);
        found.sort();
        assert_eq!(
            (found.as_slice(), page.relaxed),
            (&wanted.iter().map(ToString::to_string).collect::<Vec<_>>()[..], !wanted.is_empty()),
            "{q}"
        );
    }
    // What must not be there is not.
    for q in ["sunshine", "S3 upload timeout door -minute"] {
        let page = page(storage, &asked(q)).await;
        assert!(!ids(&page).contains(&"cause".to_owned()), "{q}: {:?}", ids(&page));
    }
    // Pages of partial matches go on as they began: those with two of the words that are anywhere.
    let query = asked("upload timeout sunshine");
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = storage.search(&query, after, 1).await.unwrap();
        assert!(page.relaxed);
        seen.extend(ids(&page));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, ["cause", "cure"]);
}

pub(super) async fn a_grouped_search_gives_each_session_once_with_its_best_hits(storage: &dyn Storage) {
    for session in 0..5 {
        let name = format!("s{session}");
        create(storage, &name).await;
        storage.update_session(&id(&name), title("untitled"), None).await.unwrap();
        let texts: Vec<String> = (0..5).map(|n| format!("word {session} {n}{}", " filler".repeat(n))).collect();
        say(storage, &name, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    for order in [SearchOrder::Relevance, SearchOrder::Newest] {
        let query = SearchQuery { group: Some(SearchGroup::Session), order: Some(order), ..asked("word") };
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = storage.search(&query, after, 2).await.unwrap();
            for hit in &page.hits {
                assert_eq!((hit.kind, hit.more.len()), (HitType::Message, 2));
                assert!(hit.more.iter().all(|more| more.session.id == hit.session.id && more.more.is_empty()));
                let is_best = hit.more.iter().all(|more| more.score <= hit.score);
                assert!(is_best || order == SearchOrder::Newest);
            }
            seen.extend(page.hits.iter().map(|hit| hit.session.id.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["s4", "s3", "s2", "s1", "s0"], "{order:?}");
    }
    let alone = page(storage, &asked("word")).await;
    assert!(alone.hits.len() == 25 && alone.hits.iter().all(|hit| hit.more.is_empty()));
}

pub(super) async fn a_search_can_be_limited_to_a_workspace_and_a_model(storage: &dyn Storage) {
    for (name, workspace, model) in [("a", "/w/one", "big"), ("b", "/w/two", "big"), ("c", "/w/two", "small")] {
        create(storage, name).await;
        let update = SessionUpdate {
            workspace: Some(Some(workspace.into())),
            model: Some(Some(model.into())),
            ..SessionUpdate::default()
        };
        storage.update_session(&id(name), update, None).await.unwrap();
        write(storage, name, &[(&format!("in {name}"), "a word")]).await;
    }
    for (workspace, model, wanted) in [
        (Some("/w/two"), None, &["in b", "in c"][..]),
        (None, Some("big"), &["in a", "in b"]),
        (Some("/w/two"), Some("big"), &["in b"]),
        (Some("/w/three"), None, &[]),
        (Some("/w/one"), Some("small"), &[]),
    ] {
        for order in [SearchOrder::Relevance, SearchOrder::Newest] {
            let query = SearchQuery {
                workspace: workspace.map(String::from),
                model: model.map(String::from),
                order: Some(order),
                ..asked("word")
            };
            let mut ids = ids(&page(storage, &query).await);
            ids.sort();
            assert_eq!(ids, wanted, "{workspace:?} {model:?}");
        }
    }
}

pub(super) async fn a_snippet_of_a_tool_call_is_read_and_not_escaped(storage: &dyn Storage) {
    create(storage, "s").await;
    let arguments = r#"{"command": "grep -n \"caf\u00e9\" src/main.rs\nls", "path": "C:\\Users"}"#;
    let call =
        serde_json::json!({ "id": "c", "type": "function", "function": { "name": "Bash", "arguments": arguments } });
    let message = NewMessage {
        id: Some(mid("m")),
        tool_calls: Some(serde_json::from_value(serde_json::json!([call])).unwrap()),
        ..NewMessage::text(Role::Assistant, "")
    };
    append(storage, "s", vec![message]).await;
    for q in ["café", "\"grep -n\"", "src/main.rs", "bash"] {
        let query = SearchQuery { within: Some(SearchIn { reasoning: false, tools: true }), ..asked(q) };
        let hits = page(storage, &query).await.hits;
        assert_eq!(hits.len(), 1, "{q}");
        let text = &hits[0].snippet.text;
        assert_eq!(text, "Bash command: grep -n \"café\" src/main.rs\nls path: C:\\Users", "{q}");
        assert!(!hits[0].snippet.ranges.is_empty(), "{q}");
    }
}
