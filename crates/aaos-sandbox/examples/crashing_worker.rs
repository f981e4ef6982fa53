//! A zygote whose workers say something and crash at their first request: for the tests of how that is
//! reported.

fn main() {
    aaos_confine::zygote::run(|channel| {
        let request = channel.receive::<serde_json::Value>();
        panic!("\u{1b}[31mcannot go on after {}", if request.is_ok() { "a request" } else { "the end" });
    })
    .expect("a zygote");
}
