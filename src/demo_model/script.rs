//! What the demo model does: the last message of the user, line by line. It knows the protocol's events, and no HTTP.

use std::{iter::Peekable, time::Duration};

use serde_json::{Value, json};

use super::{
    frames::{self, Call, Frames, What, chain, chunk, delta, event, once, words},
    refusal::{self, Body, Refusal},
};

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

Providers are odd. To see that a client can live with it:

  /finish REASON           end with this reason; alone, an answer without a word
  /broken TEXT             an error inside the choice, with the reason 'error'
  /linger [heartbeats]     no [DONE] at the end: keep the connection, silent or with heartbeats
  /heartbeats              nothing but heartbeats from here on
  /half                    an emoji, cut between its two halves
  /byte                    a character whose last bytes are missing
  /ids                     another id for each fragment of the calls
  /zero                    index 0 for all calls
  /function NAME {JSON}    a legacy function_call
  /sign TEXT               put a thought_signature on calls, and refuse a history without it
  /think TEXT              put reasoning_details on the message, and refuse a history without them
  /strict                  refuse stream_options with 422
  /label TYPE              answer with this Content-Type, or none
  /gzip                    compress the answer
  /cost NUMBER             count this cost, a fraction
  /count PLACE             put the count into 'choice' or 'x_groq', or count in 'every' chunk
  /page STATUS [N]         answer an HTML page with this status, always or N times
  /refuse STATUS {JSON}    answer this status and this body
  /raw TEXT                send these bytes as they are; \\n is the end of a line

As with any provider, a history with a call without its result, or with arguments that are no JSON, is refused with 400.
Lines after calls wait for the results. Results with no line left to go on with are repeated.

  POST /v1/chat/completions   with \"stream\": true
  GET  /v1/models
  GET  /stats?requests=N&open=N   how many requests came and how many are being answered; waits up to 10 s for as many
";

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
    Finish(String),
    Broken(String),
    Linger(bool),
    Heartbeats,
    Half,
    Byte,
    Ids,
    Zero,
    Function { name: String, arguments: String },
    Sign(String),
    Details(String),
    Strict,
    Label(String),
    Gzip,
    Cost(f64),
    Count(String),
    Raw(String),
}

/// What a request is answered with.
pub(super) struct Script {
    /// The steps of this round: up to the next calls.
    steps: Vec<Step>,
    /// Those of the rounds before, which say how to speak.
    before: Vec<Step>,
    delay: Duration,
}

/// The first of the steps that is of a kind, and what it holds.
macro_rules! find {
    ($steps:expr, $kind:pat => $held:expr) => {
        $steps.into_iter().find_map(|step| if let $kind = step { Some($held) } else { None })
    };
}

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
        let delay = find!(before.iter().rev(), Step::Slow(delay) => *delay);
        Self { steps, before, delay: delay.unwrap_or(Duration::from_millis(20)) }
    }

    /// All steps that say how to speak in this round.
    fn all(&self) -> impl Iterator<Item = &Step> {
        self.before.iter().chain(&self.steps)
    }

    /// The answer's content type. None inside for none at all.
    pub(super) fn label(&self) -> Option<Option<&str>> {
        find!(self.all(), Step::Label(label) => Some(label.as_str()).filter(|label| *label != "none"))
    }

    /// Whether the answer is compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.all().any(|step| matches!(step, Step::Gzip))
    }

    /// How often the request is to fail, when that is not always or never.
    pub(super) fn failures(&self) -> Option<u32> {
        self.steps.iter().find_map(|step| match step {
            Step::Refuse(Refusal { times, .. }) | Step::Cut(times) => *times,
            _ => None,
        })
    }

    /// How to refuse the request.
    pub(super) fn refusal(&self, request: &Value, attempt: u32) -> Option<Refusal> {
        let told = self.steps.iter().find_map(|step| match step {
            Step::Refuse(refusal) if applies(refusal.times, attempt) => Some(refusal.clone()),
            _ => None,
        });
        let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_strict = self.all().any(|step| matches!(step, Step::Strict)) && !request["stream_options"].is_null();
        let signature = find!(self.all(), Step::Sign(text) => text.as_str());
        let thought = find!(self.all(), Step::Details(text) => text.as_str());
        let strict = is_strict.then(|| Refusal::unknown_field("stream_options"));
        let unsigned = || refusal::of_unsigned(messages, signature, thought);
        told.or(strict).or_else(|| refusal::of_history(messages)).or_else(unsigned)
    }

    /// The answer. It may have no end.
    pub(super) fn frames(self, request: &Value, attempt: u32) -> Frames {
        let end = self.end(request);
        let mut writing = Writing::new(&self, request);
        let mut frames = event(Duration::ZERO, writing.first());
        for step in self.steps {
            let more = match writing.step(step) {
                Next::Frames(more) => more,
                Next::Last(last) => return chain(frames, last),
                Next::Cut(times) if applies(times, attempt) => {
                    return chain(frames, once(writing.delay, What::Cut));
                }
                Next::End => return frames,
                Next::Cut(_) | Next::Nothing => continue,
            };
            frames = chain(frames, more);
        }
        chain(frames, end)
    }

    /// What follows the last word: the reason, the count where it was asked for, the end.
    fn end(&self, request: &Value) -> Frames {
        let called = self.steps.iter().find_map(|step| match step {
            Step::Call { .. } => Some("tool_calls"),
            Step::Function { .. } => Some("function_call"),
            _ => None,
        });
        let told = find!(&self.steps, Step::Finish(reason) => reason.as_str());
        let reason = told.or(called).unwrap_or("stop");
        let mut choice = json!({ "index": 0, "delta": {}, "finish_reason": reason });
        let place = find!(self.all(), Step::Count(place) => place.as_str());
        let count = (request["stream_options"]["include_usage"] == true).then(|| self.usage(request));
        let mut groq = None;
        match (place, &count) {
            (Some("choice"), Some(count)) => choice["usage"] = count.clone(),
            (Some("x_groq"), Some(count)) => {
                groq = Some(json!({ "choices": [], "x_groq": { "usage": count } }).to_string())
            }
            _ => {}
        }
        let alone = place.is_none_or(|place| place == "every");
        let count = count.filter(|_| alone).map(|count| chunk(json!([]), count));
        let linger = find!(self.all(), Step::Linger(beats) => *beats);
        let done = linger.is_none().then(|| "[DONE]".to_owned());
        let events = [Some(chunk(json!([choice]), Value::Null)), count, groq, done];
        let events = events.into_iter().flatten().flat_map(|data| event(Duration::ZERO, data));
        match linger {
            None => Box::new(events),
            Some(true) => chain(Box::new(events), frames::heartbeats()),
            Some(false) => chain(Box::new(events), once(Duration::ZERO, What::Silence)),
        }
    }

    /// As many tokens as words, unless others were told.
    fn usage(&self, request: &Value) -> Value {
        let told = find!(&self.steps, Step::Usage(a, b) => (*a, *b));
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
        let total = prompt + completion;
        let mut usage = json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total });
        if let Some(cost) = find!(self.all(), Step::Cost(cost) => *cost) {
            usage["cost"] = json!(cost);
        }
        usage
    }
}

/// What a step does to the answer.
enum Next {
    Frames(Frames),
    /// The last frames.
    Last(Frames),
    Cut(Option<u32>),
    End,
    Nothing,
}

/// An answer that is being written.
struct Writing {
    delay: Duration,
    calls: usize,
    ids: bool,
    zero: bool,
    signature: Option<String>,
    thought: Option<String>,
    /// The count that every chunk has.
    count: Option<Value>,
}

impl Writing {
    fn new(script: &Script, request: &Value) -> Self {
        let every = script.all().any(|step| matches!(step, Step::Count(place) if place == "every"));
        Self {
            delay: script.delay,
            calls: 0,
            ids: script.all().any(|step| matches!(step, Step::Ids)),
            zero: script.all().any(|step| matches!(step, Step::Zero)),
            signature: find!(script.all(), Step::Sign(text) => text.clone()),
            thought: find!(script.all(), Step::Details(text) => text.clone()),
            count: every.then(|| script.usage(request)),
        }
    }

    fn first(&self) -> String {
        let mut first = json!({ "role": "assistant", "content": "" });
        if let Some(text) = &self.thought {
            first["reasoning_details"] = json!([{ "type": "reasoning.text", "text": text, "index": 0 }]);
        }
        match &self.count {
            Some(count) => chunk(json!([{ "index": 0, "delta": first, "finish_reason": null }]), count.clone()),
            None => delta(first),
        }
    }

    fn step(&mut self, step: Step) -> Next {
        let delay = self.delay;
        Next::Frames(match step {
            Step::Say(text) => words("content", text, delay),
            Step::Think(text) => words("reasoning_content", text, delay),
            Step::Endless => Box::new((1_u64..).flat_map(move |n| words("content", format!("{n} "), delay))),
            Step::Call { name, arguments } => {
                self.calls += 1;
                let (ids, zero, signature) = (self.ids, self.zero, self.signature.clone());
                Call { number: self.calls, name, arguments, ids, zero, signature }.frames(delay)
            }
            Step::Function { name, arguments } => frames::function(&name, &arguments, delay),
            Step::Half => frames::halves(delay),
            Step::Byte => frames::broken_byte(delay),
            Step::Raw(text) => once(delay, What::Raw(text.into_bytes())),
            Step::Garbage => event(delay, "{ this is no JSON".into()),
            Step::Fail(text) => return Next::Last(event(delay, json!({ "error": { "message": text } }).to_string())),
            Step::Broken(text) => {
                let error = json!({ "code": 502, "message": text });
                let choice = json!({ "index": 0, "delta": {}, "finish_reason": "error", "error": error });
                let last = event(delay, chunk(json!([choice]), Value::Null));
                return Next::Last(chain(last, event(delay, "[DONE]".into())));
            }
            Step::Heartbeats => return Next::Last(frames::heartbeats()),
            Step::Silent => return Next::Last(once(delay, What::Silence)),
            Step::Cut(times) => return Next::Cut(times),
            Step::End => return Next::End,
            Step::Slow(given) => {
                self.delay = given;
                return Next::Nothing;
            }
            _ => return Next::Nothing,
        })
    }
}

/// Whether something that happens so many times happens now.
fn applies(times: Option<u32>, attempt: u32) -> bool {
    times.is_none_or(|times| attempt < times)
}

/// The steps up to the next calls, and those.
fn round(steps: &mut Peekable<impl Iterator<Item = Step>>) -> Vec<Step> {
    let is_call = |step: &Step| matches!(step, Step::Call { .. } | Step::Function { .. });
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
            let wait = given.next().unwrap_or("0").into();
            Step::Refuse(Refusal { wait, times, ..Refusal::new(status, "demo", "The demo model was told to fail.") })
        }
        "/page" => {
            let status = given.next()?.parse().ok()?;
            Step::Refuse(Refusal { times: given.next().and_then(|times| times.parse().ok()), ..Refusal::page(status) })
        }
        "/refuse" => {
            let (status, body) = rest.split_once(' ')?;
            let body = Body::Json(serde_json::from_str(body).ok()?);
            Step::Refuse(Refusal { body, ..Refusal::new(status.parse().ok()?, "", "") })
        }
        "/context" => {
            let (code, message) = ("context_length_exceeded", "This model's maximum context length is 8 tokens.");
            Step::Refuse(Refusal::new(400, code, message))
        }
        "/fail" => Step::Fail(rest.into()),
        "/cut" => Step::Cut(given.next().and_then(|times| times.parse().ok())),
        "/end" => Step::End,
        "/garbage" => Step::Garbage,
        "/silent" => Step::Silent,
        "/finish" => Step::Finish(given.next()?.into()),
        "/broken" => Step::Broken(rest.into()),
        "/linger" => Step::Linger(rest == "heartbeats"),
        "/heartbeats" => Step::Heartbeats,
        "/half" => Step::Half,
        "/byte" => Step::Byte,
        "/ids" => Step::Ids,
        "/zero" => Step::Zero,
        "/function" => {
            let (name, arguments) = rest.split_once(' ').unwrap_or((rest, "{}"));
            Step::Function { name: name.into(), arguments: arguments.into() }
        }
        "/sign" => Step::Sign(rest.into()),
        "/think" => Step::Details(rest.into()),
        "/strict" => Step::Strict,
        "/label" => Step::Label(rest.into()),
        "/gzip" => Step::Gzip,
        "/cost" => Step::Cost(rest.parse().ok()?),
        "/count" => Step::Count(rest.into()),
        "/raw" => Step::Raw(rest.replace("\\n", "\n")),
        _ => return None,
    })
}

fn ask(rest: &str) -> Step {
    let mut given = rest.split('|').map(str::trim);
    let arguments = json!({ "question": given.next(), "options": given.collect::<Vec<_>>() });
    Step::Call { name: "ask_user".into(), arguments: arguments.to_string() }
}
