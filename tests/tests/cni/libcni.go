// A container runtime's use of libcni, for one pod: load, validate, STATUS, ADD, CHECK, GC, DEL, DEL again.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

func must(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func main() {
	conf, bin, cache, netns := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	namespace, pod, uid, ip := os.Args[5], os.Args[6], os.Args[7], os.Args[8]
	ctx := context.Background()
	files, err := libcni.ConfFiles(conf, []string{".conf", ".conflist", ".json"})
	must("list files", err)
	sort.Strings(files)
	list, err := libcni.ConfListFromFile(files[0])
	must("load "+files[0], err)
	fmt.Println("list", filepath.Base(files[0]), "version", list.CNIVersion)
	cni := libcni.NewCNIConfigWithCacheDir([]string{bin}, cache, nil)
	_, err = cni.ValidateNetworkList(ctx, list)
	must("validate", err)
	must("STATUS", cni.GetStatusNetworkList(ctx, list))
	rt := &libcni.RuntimeConf{
		ContainerID: "libcni-" + uid, NetNS: netns, IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", namespace}, {"K8S_POD_NAME", pod},
			{"K8S_POD_INFRA_CONTAINER_ID", "libcni-" + uid}, {"K8S_POD_UID", uid}},
		CapabilityArgs: map[string]interface{}{"ips": []string{ip}},
	}
	result, err := cni.AddNetworkList(ctx, list, rt)
	must("ADD", err)
	must("print", result.Print())
	fmt.Println("\nresult version", result.Version())
	err = cni.CheckNetworkList(ctx, list, rt)
	if !errors.Is(err, libcni.ErrorCheckNotSupp) {
		must("CHECK", err)
	}
	must("GC", cni.GCNetworkList(ctx, list, &libcni.GCArgs{
		ValidAttachments: []types.GCAttachment{{ContainerID: rt.ContainerID, IfName: rt.IfName}},
	}))
	must("DEL", cni.DelNetworkList(ctx, list, rt))
	rt.NetNS = ""
	must("second DEL, without a namespace", cni.DelNetworkList(ctx, list, rt))
}
