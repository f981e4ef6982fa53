//! Keys that come as files: their descriptors ride on the setup frame.
//!
//! Invariants: a key file is read here and nowhere else, after this process has locked itself; what is wrong with one is
//! a problem of its provider alone, and no word about it holds any of its bytes.

use std::os::fd::OwnedFd;

use aaos_core::limits::MAX_KEY_BYTES;
use aaos_core::wire::ModelsSetup;

/// Puts the keys where they belong: one descriptor for each provider whose key follows, in order.
///
/// # Errors
/// How many descriptors were announced, when others came.
pub fn take_keys(setup: &mut ModelsSetup, descriptors: Vec<OwnedFd>) -> Result<(), usize> {
    let announced = setup.providers.iter().filter(|one| one.key_follows).count();
    if announced != descriptors.len() {
        return Err(announced);
    }
    let followed = setup.providers.iter_mut().filter(|one| one.key_follows);
    for (provider, descriptor) in followed.zip(descriptors) {
        match read(&descriptor) {
            Ok(key) => provider.key = Some(key),
            Err(why) => {
                provider.problem =
                    Some(format!("its key file {why}; write the key into it, and nothing else"));
            }
        }
    }
    Ok(())
}

/// All of a short secret file.
pub(super) fn read(descriptor: &OwnedFd) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let count =
            rustix::io::read(descriptor, &mut chunk).map_err(|errno| format!("cannot be read: {errno}"))?;
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk[..count]);
        if bytes.len() as u64 > MAX_KEY_BYTES {
            return Err(format!("holds more than {MAX_KEY_BYTES} bytes"));
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let key = text.trim();
    if key.is_empty() { Err("is empty".to_owned()) } else { Ok(key.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::take_keys;
    use aaos_core::name::ProviderName;
    use aaos_core::wire::{ModelsSetup, ProviderSetup, WireFormat};
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    fn provider(name: &str, key_follows: bool) -> ProviderSetup {
        ProviderSetup {
            name: ProviderName::parse(name).expect("a name"),
            format: WireFormat::OpenAi,
            base_url: "http://h".into(),
            key: None,
            models: Vec::new(),
            any_model: true,
            headers: Vec::new(),
            slots: None,
            rates: aaos_core::model::Rates::default(),
            problem: None,
            key_follows,
        }
    }

    fn file(home: &Path, bytes: &[u8]) -> OwnedFd {
        let path = home.join(std::fs::read_dir(home).expect("lists").count().to_string());
        std::fs::write(&path, bytes).expect("written");
        File::open(&path).expect("opened").into()
    }

    #[test]
    fn each_key_goes_to_the_provider_that_announced_it() {
        let home = testkit::scratch();
        let providers = vec![provider("a", true), provider("b", false), provider("c", true)];
        let mut setup = ModelsSetup { providers, ..ModelsSetup::default() };
        let descriptors = vec![file(home.path(), b"sk-a\n"), file(home.path(), b"sk-c")];
        take_keys(&mut setup, descriptors).expect("as announced");
        let keys: Vec<_> = setup.providers.iter().map(|one| one.key.as_deref()).collect();
        assert_eq!(keys, [Some("sk-a"), None, Some("sk-c")]);
        assert_eq!(take_keys(&mut setup, vec![file(home.path(), b"x")]), Err(2), "one is missing");
    }

    #[test]
    fn a_bad_key_file_is_a_problem_of_its_provider_alone_and_is_never_quoted() {
        let home = testkit::scratch();
        let long = vec![b'k'; 4_097];
        for (bytes, said) in [
            (b" \n".as_slice(), "is empty"),
            (&long, "more than 4096 bytes"),
            (b"sk-\xff-secret", "not UTF-8"),
        ] {
            let mut setup = ModelsSetup {
                providers: vec![provider("a", true), provider("b", true)],
                aliases: Vec::new(),
                cassette: None,
                metrics: false,
                spans: None,
            };
            take_keys(&mut setup, vec![file(home.path(), bytes), file(home.path(), b"good")])
                .expect("as announced");
            let problem = setup.providers[0].problem.clone().expect("a problem");
            assert!(problem.contains(said) && problem.contains("write the key into it"), "{problem}");
            assert!(!problem.contains("secret") && setup.providers[0].key.is_none(), "{problem}");
            assert_eq!(setup.providers[1].key.as_deref(), Some("good"), "the control");
        }
        let mut longest = ModelsSetup { providers: vec![provider("a", true)], ..ModelsSetup::default() };
        take_keys(&mut longest, vec![file(home.path(), &long[1..])]).expect("as announced");
        assert_eq!(longest.providers[0].key.as_ref().map(String::len), Some(4_096));
    }
}
