//! What the demo model does: the last message of the user, line by line. It knows the protocol's events, and no HTTP.

use std::{
    iter::{self, Peekable},
    time::Duration,
};

use serde_json::{Value, json};

/// What the model can be told to do, for people.
pub const DIRECTIVES: &str = "\
The demo model repeats the user's last message, word by word. A line that begins with a directive is carried out instead:

  /slow TIME               wait that long before each word from here on (20ms otherwise)
  /reasoning TEXT          think this aloud
  /endless                 count for ever
  /tool NAME {JSON}        call a tool; lines that follow one another are calls of one message
  /ask QUESTION | A | B    call the tool ask_user, with answers to choose from
  /show                    say the request, as JSON
  /usage PROMPT COMPLETION count these tokens
  /error STATUS [N [WAIT]] answer this status, always or N times, with Retry-After: WAIT (0 seconds otherwise)
  /context                 answer 400 context_length_exceeded
  /fail TEXT               send an error in the midst of the stream
  /cut [N]                 break the connection off here, always or N times
  /end                     end the stream here as if all were said
  /garbage                 send what is no JSON
  /silent                  say nothing more, and keep the connection

Lines after calls wait for the results. Results with no line left to go on with are repeated.

  POST /v1/chat/completions   with \"stream\": true
  GET  /v1/models
  GET  /stats?requests=N&open=N   how many requests came and how many are being answered; waits up to 10 s for as many
";

/// What is sent, after a wait.
pub(super) struct Frame {
    pub(super) after: Duration,
    pub(super) what: What,
}

pub(super) enum What {
    /// An event's data.
    Event(String),
    /// The end of the connection.
    Cut,
    /// Nothing more, for ever.
    Silence,
}

#[derive(Debug, Clone)]
enum Step {
    Slow(Duration),
    Say(String),
    Think(String),
    Call { name: String, arguments: String },
    Endless,
    Usage(u64, u64),
    Refuse(Refusal),
    Fail(String),
    Cut(Option<u32>),
    End,
    Garbage,
    Silent,
}

/// An answer that is an error.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: &'static str,
    /// Seconds to wait before the next try.
    pub(super) wait: u64,
    /// How often; always when not given.
    times: Option<u32>,
}

/// What a request is answered with.
pub(super) struct Script {
    /// The steps of this round: up to the next calls.
    steps: Vec<Step>,
    delay: Duration,
}

type Frames = Box<dyn Iterator<Item = Frame> + Send>;

impl Script {
    pub(super) fn new(request: &Value) -> Self {
        let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let user = messages.iter().rposition(|message| message["role"] == "user");
        let (said, since) = user.map_or((String::new(), messages), |at| (text(&messages[at]), &messages[at..]));
        let rounds = since.iter().filter(|message| message["tool_calls"].is_array()).count();
        let mut all = steps(&said, request).into_iter().peekable();
        let before: Vec<Step> = (0..rounds).flat_map(|_| round(&mut all)).collect();
        let steps = round(&mut all);
        let steps = if steps.is_empty() && rounds > 0 { results(since) } else { steps };
        let delay = before.iter().rev().find_map(|step| if let Step::Slow(delay) = step { Some(*delay) } else { None });
        Self { steps, delay: delay.unwrap_or(Duration::from_millis(20)) }
    }

    /// How often the request is to fail, when that is not always or never.
    pub(super) fn failures(&self) -> Option<u32> {
        self.steps.iter().find_map(|step| match step {
            Step::Refuse(Refusal { times, .. }) | Step::Cut(times) => *times,
            _ => None,
        })
    }

    /// How to refuse the request.
    pub(super) fn refusal(&self, attempt: u32) -> Option<&Refusal> {
        self.steps.iter().find_map(|step| match step {
            Step::Refuse(refusal) if applies(refusal.times, attempt) => Some(refusal),
            _ => None,
        })
    }

    /// The answer. It may have no end.
    pub(super) fn frames(self, request: &Value, attempt: u32) -> Frames {
        let end = self.end(request);
        let (mut delay, mut calls) = (self.delay, 0);
        let mut frames = event(Duration::ZERO, delta(json!({ "role": "assistant", "content": "" })));
        for step in self.steps {
            let more = match step {
                Step::Slow(given) => {
                    delay = given;
                    continue;
                }
                Step::Say(text) => words("content", text, delay),
                Step::Think(text) => words("reasoning_content", text, delay),
                Step::Endless => Box::new((1_u64..).flat_map(move |n| words("content", format!("{n} "), delay))),
                Step::Call { name, arguments } => {
                    calls += 1;
                    call(calls, &name, &arguments, delay)
                }
                Step::Garbage => event(delay, "{ this is no JSON".into()),
                Step::Fail(text) => {
                    return chain(frames, event(delay, json!({ "error": { "message": text } }).to_string()));
                }
                Step::Cut(times) if applies(times, attempt) => return chain(frames, once(delay, What::Cut)),
                Step::Silent => return chain(frames, once(delay, What::Silence)),
                Step::End => return frames,
                Step::Cut(_) | Step::Usage(..) | Step::Refuse(_) => continue,
            };
            frames = chain(frames, more);
        }
        chain(frames, end)
    }

    /// What follows the last word: the reason, the count where it was asked for, the end.
    fn end(&self, request: &Value) -> Frames {
        let called = self.steps.iter().any(|step| matches!(step, Step::Call { .. }));
        let reason = if called { "tool_calls" } else { "stop" };
        let reason = chunk(json!([{ "index": 0, "delta": {}, "finish_reason": reason }]), Value::Null);
        let count = (request["stream_options"]["include_usage"] == true).then(|| chunk(json!([]), self.usage(request)));
        let events = [Some(reason), count, Some("[DONE]".into())];
        Box::new(events.into_iter().flatten().flat_map(|data| event(Duration::ZERO, data)))
    }

    /// As many tokens as words, unless others were told.
    fn usage(&self, request: &Value) -> Value {
        let told = self.steps.iter().find_map(|step| if let Step::Usage(a, b) = step { Some((*a, *b)) } else { None });
        let count = |text: &str| text.split_whitespace().count() as u64;
        let (prompt, completion) = told.unwrap_or_else(|| {
            let said = self.steps.iter().map(|step| match step {
                Step::Say(text) | Step::Think(text) => count(text),
                _ => 0,
            });
            (
                request["messages"].as_array().into_iter().flatten().map(|message| count(&text(message))).sum(),
                said.sum(),
            )
        });
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion })
    }
}

/// Whether something that happens so many times happens now.
fn applies(times: Option<u32>, attempt: u32) -> bool {
    times.is_none_or(|times| attempt < times)
}

/// The steps up to the next calls, and those.
fn round(steps: &mut Peekable<impl Iterator<Item = Step>>) -> Vec<Step> {
    let is_call = |step: &Step| matches!(step, Step::Call { .. });
    let mut round = Vec::new();
    while let Some(step) = steps.next_if(|next| is_call(next) || !round.last().is_some_and(is_call)) {
        round.push(step);
    }
    round
}

/// The results of the last calls, said.
fn results(messages: &[Value]) -> Vec<Step> {
    let last = messages.iter().rposition(|message| message["role"] != "tool").map_or(0, |at| at + 1);
    let results: Vec<String> = messages[last..].iter().map(text).collect();
    vec![Step::Say(results.join("\n"))]
}

/// A message's text, also where it is in parts.
fn text(message: &Value) -> String {
    let parts = message["content"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
    message["content"].as_str().map_or_else(|| parts.collect::<Vec<_>>().join("\n"), String::from)
}

fn steps(said: &str, request: &Value) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in said.lines() {
        match (directive(line, request), steps.last_mut()) {
            (Some(step), _) => steps.push(step),
            (None, Some(Step::Say(text))) => *text = format!("{text}\n{line}"),
            (None, _) if line.trim().is_empty() => {}
            (None, _) => steps.push(Step::Say(line.into())),
        }
    }
    steps
}

/// The step that a line tells. None for a line to be said.
fn directive(line: &str, request: &Value) -> Option<Step> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim();
    let mut given = rest.split_whitespace();
    Some(match word {
        "/slow" => Step::Slow(humantime::parse_duration(rest).ok()?),
        "/reasoning" => Step::Think(rest.into()),
        "/endless" => Step::Endless,
        "/tool" => {
            let (name, arguments) = rest.split_once(' ').unwrap_or((rest, "{}"));
            Step::Call { name: name.into(), arguments: arguments.into() }
        }
        "/ask" => ask(rest),
        "/show" => Step::Say(request.to_string()),
        "/usage" => Step::Usage(given.next()?.parse().ok()?, given.next()?.parse().ok()?),
        "/error" => {
            let status = given.next()?.parse().ok()?;
            let times = given.next().and_then(|times| times.parse().ok());
            let wait = given.next().and_then(|wait| wait.parse().ok()).unwrap_or(0);
            Step::Refuse(Refusal { status, code: "demo", message: "The demo model was told to fail.", wait, times })
        }
        "/context" => {
            let (code, message) = ("context_length_exceeded", "This model's maximum context length is 8 tokens.");
            Step::Refuse(Refusal { status: 400, code, message, wait: 0, times: None })
        }
        "/fail" => Step::Fail(rest.into()),
        "/cut" => Step::Cut(given.next().and_then(|times| times.parse().ok())),
        "/end" => Step::End,
        "/garbage" => Step::Garbage,
        "/silent" => Step::Silent,
        _ => return None,
    })
}

fn ask(rest: &str) -> Step {
    let mut given = rest.split('|').map(str::trim);
    let arguments = json!({ "question": given.next(), "options": given.collect::<Vec<_>>() });
    Step::Call { name: "ask_user".into(), arguments: arguments.to_string() }
}

/// A call in fragments, as models write them: what is called, then the arguments in two halves.
fn call(number: usize, name: &str, arguments: &str, delay: Duration) -> Frames {
    let half = arguments.floor_char_boundary(arguments.len() / 2);
    let fragment = |call: Value| event(delay, delta(json!({ "tool_calls": [call] })));
    let more = |text: &str| fragment(json!({ "index": number - 1, "function": { "arguments": text } }));
    let (id, function) = (format!("call_{number}"), json!({ "name": name, "arguments": "" }));
    let beginning = fragment(json!({ "index": number - 1, "id": id, "type": "function", "function": function }));
    chain(chain(beginning, more(&arguments[..half])), more(&arguments[half..]))
}

fn words(field: &'static str, text: String, delay: Duration) -> Frames {
    let words: Vec<String> = text.split_inclusive(char::is_whitespace).map(String::from).collect();
    Box::new(words.into_iter().flat_map(move |word| event(delay, delta(json!({ field: word })))))
}

fn delta(delta: Value) -> String {
    chunk(json!([{ "index": 0, "delta": delta, "finish_reason": null }]), Value::Null)
}

fn chunk(choices: Value, usage: Value) -> String {
    let object = "chat.completion.chunk";
    let chunk =
        json!({ "id": "demo", "object": object, "created": 0, "model": "demo", "choices": choices, "usage": usage });
    chunk.to_string()
}

fn event(after: Duration, data: String) -> Frames {
    once(after, What::Event(data))
}

fn once(after: Duration, what: What) -> Frames {
    Box::new(iter::once(Frame { after, what }))
}

fn chain(first: Frames, then: Frames) -> Frames {
    Box::new(first.chain(then))
}
