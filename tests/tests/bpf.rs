//! The programs and maps by themselves: the verifier takes them, links and pins are where they should be.

use anyhow::Result;
use kit::lab::Lab;
use sotto::capture::PodListeners;

use sotto_abi::names;

#[test]
fn the_verifier_accepts_every_program_and_all_is_pinned() -> Result<()> {
    let lab = Lab::new("load")?;
    let mut kernel = lab.install(|_| {})?;
    for map in names::SHARED_MAPS {
        assert!(lab.pin_dir().join(names::MAPS_DIRECTORY).join(map).exists(), "{map}");
    }
    for link in [names::CONNECT4, names::CONNECT6, names::PROBE] {
        assert!(lab.pin_dir().join(names::LINKS_DIRECTORY).join(link).exists(), "{link}");
    }
    let pod = lab.pod(2)?;
    let listeners = PodListeners::bind(&pod.capture, 2)?;
    kernel.capture(&pod.capture, &listeners)?;
    let adopted = kernel.adopted()?;
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0].netns_inode, pod.capture.netns.inode());
    assert_eq!(adopted[0].cookie, pod.capture.netns.cookie()?);
    Ok(())
}
