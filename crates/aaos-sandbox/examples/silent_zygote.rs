//! A zygote that takes no order: for the test that a launch has a deadline.

fn main() {
    loop {
        std::thread::park();
    }
}
