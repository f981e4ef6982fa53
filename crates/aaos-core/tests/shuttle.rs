//! probe
use shuttle::sync::Mutex;
#[test]
fn probe() {
    shuttle::check_random(
        || {
            let m = Mutex::new(1);
            drop(m.lock());
        },
        10,
    );
}
