//! `web_fetch`, second half: hostile and ordinary pages.

use std::os::fd::AsFd;

use aaos_core::wire::{JobOutput, WorkerJob};

use super::{Near, handed, memfd};

fn page(content_type: &str, bytes: &[u8]) -> String {
    let file = memfd(bytes);
    let job = WorkerJob::ReadPage {
        status: 200,
        content_type: content_type.to_owned(),
        final_url: "http://example.org/".to_owned(),
        truncated: false,
        page: handed(bytes),
    };
    let output = Near::start().run(job, &[file.as_fd()]);
    let Ok(JobOutput::ReadPage(output)) = output else { panic!("{output:?}") };
    assert_eq!((output.status, output.content_type.as_str()), (200, content_type));
    output.body
}

#[test]
fn html_becomes_markdown_without_scripts() {
    let html = b"<html><body><h1>Title</h1><script>evil()</script><p>A <b>word</b>.</p></body></html>";
    let text = page("text/html; charset=utf-8", html);
    assert!(text.contains("# Title") && text.contains("A **word**."), "{text}");
    assert!(!text.contains("evil"), "{text}");
    assert!(page("", b"  <!DOCTYPE html><h1>T</h1>").contains("# T"));
}

#[test]
fn text_stays_as_it_is() {
    assert_eq!(page("text/plain", b"a < b\n"), "a < b\n");
    assert_eq!(page("application/json", b"{\"a\":1}"), "{\"a\":1}");
    assert_eq!(page("", b"plain"), "plain");
}

#[test]
fn charsets_follow_the_header() {
    assert_eq!(page("text/plain; charset=ISO-8859-1", b"caf\xe9 \x80"), "café €");
    assert_eq!(page("text/plain; charset=utf-8", "café".as_bytes()), "café");
    assert_eq!(page("text/plain", b"caf\xe9"), "caf\u{fffd}");
    assert_eq!(page("text/plain", b"\xef\xbb\xbfx"), "x");
}

#[test]
fn what_is_no_text_is_named_and_not_shown() {
    for (kind, bytes) in [("image/png", &b"abc"[..]), ("", b"\xff\x00"), ("application/octet-stream", b"\0")]
    {
        assert!(page(kind, bytes).contains("not text"), "{kind}");
    }
}

#[test]
fn a_page_nested_without_end_is_stripped_and_not_recursed_into() {
    // The first is refused after it was parsed, the second before.
    for depth in [1_000, 200_000] {
        let html = format!("<style>x</style>{}deep &<p>words", "<div>".repeat(depth));
        assert_eq!(page("text/html", html.as_bytes()), "deep & words", "{depth}");
    }
    let shallow = format!("{}deep <b>words</b>", "<div>".repeat(100));
    assert!(page("text/html", shallow.as_bytes()).contains("deep **words**"));
}
