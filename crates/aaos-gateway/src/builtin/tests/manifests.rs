//! The shipped bootstrap manifest parses, and so do the examples in its prompt.

use aaos_core::manifest::Manifest;

const BOOTSTRAP: &str = include_str!("../../../../../manifests/bootstrap.yaml");
const BOOTSTRAP_LOCAL: &str = include_str!("../../../../../manifests/bootstrap-local.yaml");

#[test]
fn the_shipped_manifest_for_local_models_is_short_and_like_the_other() {
    let (usual, local) = (Manifest::parse(BOOTSTRAP), Manifest::parse(BOOTSTRAP_LOCAL));
    let (usual, local) = (usual.expect("the shipped manifest"), local.expect("the other"));
    assert!(local.system_prompt.len() < 1_000, "{} bytes", local.system_prompt.len());
    assert!(usual.system_prompt.len() > 4_000, "the control");
    let alike =
        Manifest { system_prompt: usual.system_prompt.clone(), metadata: usual.metadata.clone(), ..local };
    assert_eq!(alike, usual, "they differ in their words alone");
}

#[test]
fn the_shipped_manifest_and_its_examples_parse() {
    let bootstrap = Manifest::parse(BOOTSTRAP).expect("the shipped manifest");
    assert_eq!((bootstrap.name.as_str(), bootstrap.model.as_str()), ("bootstrap", "smart"));
    assert!(bootstrap.capabilities.is_empty(), "the runtime adds the operator's root grant");
    let mut examples = Vec::new();
    let mut current = String::new();
    for line in bootstrap.system_prompt.lines() {
        match line.strip_prefix("    ") {
            Some(inside) if line.starts_with("    name: ") || !current.is_empty() => {
                current.push_str(inside);
                current.push('\n');
            }
            _ if !current.is_empty() => examples.push(std::mem::take(&mut current)),
            _ => {}
        }
    }
    assert_eq!(examples.len(), 2, "a reader and a writer");
    for example in examples {
        let manifest = Manifest::parse(&example).unwrap_or_else(|error| panic!("{error}\n{example}"));
        assert!(manifest.capabilities.len() >= 2);
    }
}
