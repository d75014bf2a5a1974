//! Settings that cannot be used: each is named, with what would have been accepted.

use culm::executor::config::{ExecutorConfig, Executors};

use super::*;

fn check(name: &str, text: &str) -> Result<Executors, String> {
    let config: ExecutorConfig = toml::from_str(text).map_err(|error| error.to_string())?;
    Executors::check(&[(name.to_owned(), config)].into()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let good = "kind = 'openai'\nbase_url = 'http://127.0.0.1:1/v1'\nmodel = 'm'\n";
    let url = |url: &str| format!("kind = 'openai'\nbase_url = '{url}'\nmodel = 'm'\n");
    let cases = [
        (format!("{good}modle = 'x'"), "modle"),
        ("kind = 'other'\ncommand = ['x']".into(), "other"),
        ("kind = 'acp'".into(), "command"),
        ("kind = 'acp'\ncommand = []".into(), "executors.local.command"),
        ("kind = 'acp'\ncommand = ['x']\npermissions = 'perhaps'".into(), "perhaps"),
        ("kind = 'acp'\ncommand = ['x']\nidle_timeout = '0s'".into(), "executors.local.idle_timeout"),
        ("kind = 'acp'\ncommand = ['x']\npass_env = ['CULM_TEST_NO_SUCH_KEY']".into(), "CULM_TEST_NO_SUCH_KEY"),
        ("kind = 'openai'\nmodel = 'm'".into(), "base_url"),
        ("base_url = 'http://x'\nmodel = 'm'".into(), "kind"),
        (url("localhost:11434"), "executors.local.base_url"),
        (url("ftp://localhost"), "executors.local.base_url"),
        (url("https://me:secret@localhost"), "api_key_file"),
        (format!("{good}api_key_env = 'CULM_TEST_NO_SUCH_KEY'"), "CULM_TEST_NO_SUCH_KEY"),
        (format!("{good}api_key_file = '/nowhere/key'"), "/nowhere/key"),
        (format!("{good}api_key_file = '/dev/null'"), "no key in it"),
        (format!("{good}api_key_file = 'a'\napi_key_env = 'b'"), "not together"),
        (format!("{good}silence_timeout = 'soon'"), "90s"),
        (format!("{good}silence_timeout = '0s'"), "silence_timeout"),
        (format!("{good}headers = {{ 'a b' = 'c' }}"), "headers.a b"),
        (format!("{good}headers = {{ a = \"b\\n\" }}"), "headers.a"),
    ];
    for (text, words) in cases {
        let error = check("local", &text).unwrap_err();
        assert!(error.contains(words) && !error.contains("secret"), "{text}: {error}");
    }
    check("local", &format!("{good}silence_timeout = '2m'\nask_user = false\nheaders = {{ a = 'b' }}")).unwrap();
    assert!(check("a b", good).unwrap_err().contains("executors.a b"));
}

#[tokio::test]
async fn an_address_keeps_its_path_and_its_query() {
    for (path, wanted) in [
        ("", "/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/a/b?api-version=1#x", "/a/b/chat/completions?api-version=1"),
    ] {
        let (url, mut requests) = provider(vec![stream(&[HI, "[DONE]"])]).await;
        let executor = executor(&format!("{}{path}", url.strip_suffix("/v1").unwrap()), "");
        finish(&executor, turn(vec![NewMessage::text(Role::User, "hello")])).await.0.unwrap();
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with(&format!("POST {wanted} HTTP/1.1\r\n")), "{request}");
        assert!(!request.contains("authorization"), "{request}");
    }
}
