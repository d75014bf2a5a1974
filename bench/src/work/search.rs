//! Searches over HTTP among many messages: usual ones, those for what nearly every message holds, those within a short
//! session, and for strings that mean nothing.

use std::{rc::Rc, time::Instant};

use bench_protocol::{Plan, Random, Texts};

use crate::{
    Outcome,
    bench::Bench,
    figures::{Figure, Unit, median, percentile},
    http::{self, Address, Client},
};

/// Words of a message.
const WORDS: usize = 40;
/// A session of 50 messages.
const SHORT: &str = "short";

/// The largest database of a run.
pub(super) fn large(bench: &Bench) -> (&'static str, Plan) {
    ("messages", messages(size(bench)))
}

fn size(bench: &Bench) -> usize {
    bench.sized(1_000_000, 20_000)
}

/// This many messages in sessions of 50.
fn messages(number: usize) -> Plan {
    let mut histories: Vec<(String, usize)> = (0..number / 50 - 1).map(|n| (format!("s{n}"), 50)).collect();
    // In the middle: neither the first nor the last that is met.
    histories.insert(histories.len() / 2, (SHORT.into(), 50));
    Plan { roots: 1, histories, words: Some(WORDS), ..Plan::default() }
}

/// A search: what it is called, its query as it stands in a URL, and the budget's group that it is in.
struct Search {
    name: &'static str,
    query: String,
    group: &'static str,
}

fn searches(bench: &Bench) -> Vec<Search> {
    let word = |rank| bench.texts.word(rank);
    let search = |name, group, query| Search { name, query, group };
    vec![
        search("rare_word", "usual", format!("q={}", word(18_000))),
        search("two_words", "usual", format!("q={}+{}", word(20), word(60))),
        search("phrase", "usual", format!("q=%22{}+{}%22", word(5), word(30))),
        search("prefix", "usual", format!("q={}*", &word(500)[..4])),
        search("newest_of_half", "usual", format!("q={}&order=newest", word(6))),
        search("in_nearly_all", "common", format!("q={}", word(1))),
        search("two_in_nearly_all", "common", format!("q={}+{}", word(1), word(2))),
        search("commonest_phrase", "common", format!("q=%22{}+{}%22", word(1), word(2))),
        search("common_in_session", "session", format!("q={}&session={SHORT}", word(1))),
        search("half_in_session", "session", format!("q={}&session={SHORT}", word(6))),
        search("rare_in_session", "session", format!("q={}&session={SHORT}", word(18_000))),
    ]
}

pub(crate) fn measure(bench: &mut Bench) -> Outcome<()> {
    for number in bench.sized(&[10_000, 100_000][..], &[5000]) {
        let data = format!("messages-{number}");
        let server = bench.serve(&data, &messages(*number))?;
        take(bench, &server.address, *number)?;
        bench.forget(&data)?;
    }
    let (data, plan) = large(bench);
    let server = bench.serve(data, &plan)?;
    let took = take(bench, &server.address, size(bench))?;
    let slowest = |group, what: fn(&[f64]) -> f64| {
        let of_group = took.iter().filter(|(search, _)| search.group == group).map(|(_, times)| what(times));
        [of_group.fold(0.0, f64::max)]
    };
    bench.add_values("search.usual_median", Unit::Milliseconds, &slowest("usual", median));
    bench.add_values("search.usual_p99", Unit::Milliseconds, &slowest("usual", |times| percentile(times, 0.99)));
    bench.add_values("search.common_median", Unit::Milliseconds, &slowest("common", median));
    bench.add_values("search.session_median", Unit::Milliseconds, &slowest("session", median));
    random(bench, &server.address)
}

/// Searches for each, in turn, and gives the milliseconds that each took.
fn take(bench: &mut Bench, server: &Address, number: usize) -> Outcome<Vec<(Search, Vec<f64>)>> {
    let mut took: Vec<_> = searches(bench).into_iter().map(|search| (search, Vec::new())).collect();
    let requests = |search: &Search| -> Rc<[u8]> { server.get(&format!("/api/v1/search?{}", search.query)).into() };
    // Enough for a 99th percentile.
    for round in 0..bench.sized(120, 30) {
        for (search, times) in &mut took {
            let sample = http::load(server, vec![vec![requests(search)]])?.micros;
            if round >= 5 {
                times.extend(sample.iter().map(|micros| micros / 1e3));
            }
        }
    }
    for (search, times) in &took {
        bench.add_sized(&format!("search.{}_messages", search.name), number, Unit::Milliseconds, times);
        if number >= 1_000_000 {
            bench.add(Figure::new(
                &format!("search.{}_p99", search.name),
                Unit::Milliseconds,
                &[percentile(times, 0.99)],
            ));
        }
    }
    Ok(took)
}

/// Strings that mean nothing: the longest time that one takes. One that is refused is an answer too.
fn random(bench: &mut Bench, server: &Address) -> Outcome<()> {
    let (count, mut random) = (bench.sized(3000, 300), Random::new(7));
    let longest = http::runtime()?.block_on(async {
        let (mut client, mut longest) = (Client::connect(server).await?, 0f64);
        for _ in 0..count {
            let query: String = (0..=random.below(20)).map(|_| piece(&mut random, &bench.texts)).collect();
            let request = server.get(&format!("/api/v1/search?q={}", encoded(&query)));
            let begun = Instant::now();
            let (status, _) = client.ask(&request).await?;
            longest = longest.max(begun.elapsed().as_secs_f64() * 1e3);
            if status >= 500 {
                return Err(format!("{status} for {query:?}").into());
            }
        }
        Outcome::Ok(longest)
    })?;
    bench.add_values("search.random_longest", Unit::Milliseconds, &[longest]);
    Ok(())
}

/// What is no letter, what looks like syntax, and what other scripts write.
const PIECES: [&str; 12] = ["\"", " ", " -", "* ", " AND ", " OR ", "NEAR(", "数据", "か", "한글", "🎋", "é"];

/// One of these, a word, or any printable character.
fn piece(random: &mut Random, texts: &Texts) -> String {
    match random.below(4) {
        0 => PIECES[random.below(PIECES.len())].into(),
        1 => format!(" {} ", texts.word(1 + random.below(50_000))),
        _ => char::from(b' ' + random.below(95) as u8).into(),
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
