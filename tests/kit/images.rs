//! What an image's name stands for here: nothing is pulled, the kit's own apps play the images.

use std::path::Path;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Container;

/// Images and the `kit-app` that plays them. The image's last path part is matched by its start.
const IMAGES: [(&str, &[&str]); 13] = [
    ("examples-bookinfo-details", &["bookinfo", "details"]),
    ("examples-bookinfo-ratings", &["bookinfo", "ratings"]),
    ("examples-bookinfo-reviews-v1", &["bookinfo", "reviews-v1"]),
    ("examples-bookinfo-reviews-v2", &["bookinfo", "reviews-v2"]),
    ("examples-bookinfo-reviews-v3", &["bookinfo", "reviews-v3"]),
    ("examples-bookinfo-productpage", &["bookinfo", "productpage"]),
    ("httpbin", &["httpbin"]),
    ("go-httpbin", &["httpbin"]),
    ("tcp-echo", &["tcp"]),
    ("curl", &["pause"]),
    ("sleep", &["pause"]),
    ("pause", &["pause"]),
    ("kit-app", &[]),
];

/// What to run for `container`: the app that plays its image; for `kit-app` itself the container's
/// arguments; else the container's own command, if the host has that program.
///
/// # Errors
/// Nothing is known that could run.
pub fn argv(container: &Container, kit_app: &Path) -> Result<Vec<String>> {
    let image = container.image.as_deref().unwrap_or_default();
    let given = [&container.command, &container.args].into_iter().flatten().flatten().cloned();
    let given: Vec<String> = given.collect();
    let Some(app) = played_by(image) else {
        let program = given.first().map(Path::new);
        if program.is_some_and(|program| program.is_absolute() && program.exists()) {
            return Ok(given);
        }
        bail!("the image {image:?} is not one the kit can play, and has no command of this host");
    };
    let mut argv = vec![kit_app.display().to_string()];
    argv.extend(app.iter().map(|word| String::from(*word)));
    if app.is_empty() {
        argv.extend(container.args.iter().flatten().cloned());
    }
    if app == ["httpbin"] {
        let ports = container.ports.iter().flatten().map(|port| port.container_port.to_string());
        argv.extend(ports.flat_map(|port| [String::from("--port"), port]));
    }
    Ok(argv)
}

fn played_by(image: &str) -> Option<&'static [&'static str]> {
    let name = image.rsplit('/').next()?;
    let name = name.split([':', '@']).next()?;
    let found = IMAGES.iter().find(|(start, _)| name.starts_with(start));
    found.map(|(_, app)| *app)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(image: &str, command: &[&str], expected: Option<&str>) {
        let container = Container {
            image: Some(image.to_owned()),
            command: Some(command.iter().map(|word| String::from(*word)).collect()),
            ..Default::default()
        };
        let argv = argv(&container, Path::new("/kit-app")).ok().map(|argv| argv.join(" "));
        assert_eq!(argv.as_deref(), expected);
    }

    #[test]
    fn the_tutorials_images_are_played() {
        let bookinfo = "docker.io/istio/examples-bookinfo";
        check(&format!("{bookinfo}-details-v1:1.20.2"), &[], Some("/kit-app bookinfo details"));
        check(&format!("{bookinfo}-reviews-v3:1"), &[], Some("/kit-app bookinfo reviews-v3"));
        check("curlimages/curl", &["/bin/sleep", "3650d"], Some("/kit-app pause"));
        check("docker.io/kennethreitz/httpbin@sha256:0", &[], Some("/kit-app httpbin"));
    }

    #[test]
    fn another_image_runs_its_command_if_the_host_has_it() {
        check("busybox", &["/bin/sh", "-c", "true"], Some("/bin/sh -c true"));
        check("busybox", &["/no/such"], None);
        check("busybox", &[], None);
    }
}
