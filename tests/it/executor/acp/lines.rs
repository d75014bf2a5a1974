//! Lines of an agent that are no message alone, or hold what a tree of values cannot.

use super::*;

/// An agent that answers each prompt with what a piece of shell prints.
const AGENT: &str = r#"
answer() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
update() { printf '{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"s1","update":%s}}\n' "$1"; }
say() { update '{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"'"$1"'"}}'; }
permit() {
    printf '{"jsonrpc":"2.0","id":"p","method":"session/request_permission","params":{"sessionId":"s1","toolCall":%s,%s}}\n' \
        '{"toolCallId":"t","title":"Pay","rawInput":'"$1"'}' \
        '"options":[{"optionId":"allow","name":"Allow","kind":"allow_once"}]'
    IFS= read -r answered
    case $answered in *allow*) say allowed ;; *) say refused ;; esac
}
while IFS= read -r line; do
    id=$(printf '%s\n' "$line" | sed -E 's/.*"id":("[^"]*"|[0-9]+).*/\1/')
    case $line in
    *'"method":"initialize"'*) answer '{"protocolVersion":1}' ;;
    *'"method":"session/new"'*) answer '{"sessionId":"s1"}' ;;
    *'"method":"session/prompt"'*) eval "$1"; answer '{"stopReason":"end_turn"}' ;;
    esac
done
"#;

/// A pool of such agents, with messages so small that a line of two megabytes is too long.
fn printing(home: &Path, rows: &Arc<Rows>, tasks: &Tasks, printed: &[&str], more: &str) -> Arc<dyn Executor> {
    let command: Vec<&str> = ["sh", "-c", AGENT, "agent"].into_iter().chain(printed.iter().copied()).collect();
    let limits = Limits { message: 64 << 10, ..Limits::default() };
    launched(&command, limits, home, rows, tasks, more)
}

/// What is stored of an agent that prints this.
async fn told(printed: &str) -> (Result<Outcome, Error>, Vec<String>) {
    let mut agent = Talking::with(printing, &[printed], "");
    let (outcome, told) = agent.say("go").await;
    agent.pool.shut_down().await;
    (outcome, told.into_iter().filter(|line| line.starts_with("message")).collect())
}

async fn says(printed: &str) -> String {
    let (outcome, told) = told(printed).await;
    assert_eq!(outcome.unwrap(), Outcome::Completed, "{printed}");
    told.concat()
}

#[tokio::test]
async fn what_is_printed_before_a_message_costs_no_words() {
    for printed in
        ["printf 'Loading... '; say hello", r"printf '10%%\r20%%\r'; say hello", r"printf '\357\273\277'; say hello"]
    {
        assert_eq!(says(printed).await, "message [final_answer] hello", "{printed}");
    }
}

#[tokio::test]
async fn half_a_character_costs_no_words() {
    assert_eq!(says(r"say 'a\ud83d'; say b").await, "message [final_answer] a\u{fffd}b");
    assert_eq!(says(r"say 'a\ud83d'; say '\ude00b\ude00'").await, "message [final_answer] a\u{1f600}b\u{fffd}");
    assert_eq!(says(r"say 'a\ud83d'").await, "message [final_answer] a\u{fffd}");
}

#[tokio::test]
async fn what_is_left_out_of_an_answer_is_told_in_it() {
    let long = "say one; say $(head -c 2000000 /dev/zero | tr '\\0' x); say two";
    let left_out = "one\n\n[left out: a message of more than 1048576 bytes]\n\ntwo";
    assert_eq!(says(long).await, format!("message [final_answer] {left_out}"));
    let broken = r#"say one; echo '{"jsonrpc":"2.0","method":"session/upd'; say two"#;
    let left_out = "one\n\n[left out: a message that cannot be read]\n\ntwo";
    assert_eq!(says(broken).await, format!("message [final_answer] {left_out}"));
}

#[tokio::test]
async fn an_error_with_a_word_for_a_number_ends_the_turn() {
    let error =
        r#"say hello; printf '{"jsonrpc":"2.0","id":%s,"error":{"code":"E1","message":null,"data":"quota"}}\n' "$id""#;
    let (outcome, _) = told(error).await;
    assert_eq!(outcome.unwrap_err().to_string(), "the agent refuses: E1 (\"quota\")");
}

#[tokio::test]
async fn a_call_keeps_its_numbers() {
    let call = r#"update '{"sessionUpdate":"tool_call","toolCallId":"t","title":"Pay","status":"completed","rawInput":{"to":123456789012345678901},"rawOutput":{"sum":0.10000000000000000001}}'"#;
    let stored =
        r#"message [commentary]  other{"to":123456789012345678901}message [result] {"sum":0.10000000000000000001}"#;
    assert_eq!(says(call).await, stored);
}

/// After a restart the agent asks again, for an account whose number is the same float.
#[tokio::test]
async fn a_permission_is_for_all_digits() {
    let permit = |account: &str| format!(r#"permit '{{"cmd":"transfer","account":{account}}}'"#);
    for (again, asks) in [
        ("123456789012345678901", false),
        ("123456789012345678902", true),
        ("1.2345678901234568e20", true),
        ("123456789012345678901.0", true),
    ] {
        let mut agent = Talking::with(printing, &[&permit("123456789012345678901")], "");
        let (question, stored) = said::answered_after_a_restart(&mut agent, "go", "Allow").await;
        assert!(question.question.contains(r#""account": 123456789012345678901,"#), "{}", question.question);
        let arguments = &stored[0].tool_calls.as_ref().unwrap()[0].function.arguments;
        assert!(arguments.contains(r#""input":{"cmd":"transfer","account":123456789012345678901}"#), "{arguments}");
        let agent = agent.restarted(&[&permit(again)]).await;
        let mut running = Running::of(agent.pool.clone(), turn(said::asks_again("go", stored)));
        let asked = running.until(|event| match event {
            Event::Question(_) => Some(true),
            Event::TextDelta(text) => {
                assert_eq!(text, "allowed");
                Some(false)
            }
            _ => None,
        });
        assert_eq!(asked.await, asks, "{again}");
    }
}
