//! The key goes to its host, and nowhere else.

use std::io::Write;

use super::*;

const KEY: &str = "sk-canary-0123456789";

/// An executor with a key from a file, and another secret in a header.
fn with_key(url: &str) -> (OpenAi, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "  {KEY}\n\n").unwrap();
    let more = format!("api_key_file = '{}'\nheaders = {{ x-tenant = 'hidden-{KEY}' }}", file.path().display());
    let settings = config(url, &more).settings().unwrap();
    let shown = format!("{:?} {} {settings:?}", config(url, &more), config(url, &more));
    (with(url, &more, Arc::new(NoAttachments), Limits::default()), shown)
}

#[tokio::test]
async fn the_key_is_sent_to_its_host_and_does_not_follow_a_redirect() {
    let (other, mut elsewhere) = provider(vec![stream(&["[DONE]"])]).await;
    let redirect = format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {other}\r\nconnection: close\r\n\r\n");
    let (url, mut requests) = provider(vec![redirect]).await;
    let (executor, _) = with_key(&url);
    let (outcome, _) = finish(&executor, turn(vec![NewMessage::text(Role::User, "hello")])).await;
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains(&format!("redirects to {other}")), "{error}");
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("authorization: Bearer {KEY}\r\n")), "{request}");
    assert!(request.contains(&format!("x-tenant: hidden-{KEY}\r\n")), "{request}");
    assert!(elsewhere.try_recv().is_err(), "the other host was asked");
}

#[tokio::test]
async fn the_key_is_in_no_debug_output_and_in_no_error() {
    let body = format!(r#"{{"error":{{"message":"Incorrect API key:\n{KEY}, of hidden-{KEY}"}}}}"#);
    let redirect = format!("HTTP/1.1 302 Found\r\nlocation: http://x/?k={KEY}\r\nconnection: close\r\n\r\n");
    let error = format!(r#"{{"error":{{"message":"{KEY}","code":401}}}}"#);
    for answer in [answer("401 Unauthorized", &body), redirect, stream(&[&error])] {
        let (url, _requests) = provider(vec![answer]).await;
        let (executor, shown) = with_key(&url);
        let (outcome, _) = finish(&executor, turn(vec![NewMessage::text(Role::User, "hello")])).await;
        let error = outcome.unwrap_err();
        assert!(!shown.contains(KEY), "{shown}");
        assert!(error.to_string().contains("[secret]") && !error.to_string().contains("canary"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

/// What is written to a log.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_key_is_in_no_log() {
    let log = Log::default();
    let writer = log.clone();
    let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(all.finish());
    let refusal = || answer("503 Service Unavailable", KEY);
    let (url, _requests) = provider(vec![refusal(), stream(&[HI, "[DONE]"])]).await;
    let (executor, _) = with_key(&url);
    finish(&executor, turn(vec![NewMessage::text(Role::User, "hello")])).await.0.unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("the provider is asked again"), "{log}");
    assert!(!log.contains("canary"), "{log}");
}
