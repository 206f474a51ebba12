package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/kubeflow/pipelines/api/v2alpha1/go/pipelinespec"
	api "github.com/kubeflow/pipelines/backend/api/v1beta1/go_client"
	"github.com/kubeflow/pipelines/backend/src/common/util"
	"github.com/kubeflow/pipelines/backend/src/v2/cacheutils"
	"github.com/kubeflow/pipelines/backend/src/v2/client_manager"
	"github.com/kubeflow/pipelines/backend/src/v2/common/plugins"
	"github.com/kubeflow/pipelines/backend/src/v2/component"
	"github.com/kubeflow/pipelines/backend/src/v2/driver"
	"github.com/kubeflow/pipelines/backend/src/v2/metadata"
	"github.com/kubeflow/pipelines/kubernetes_platform/go/kubernetesplatform"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	k8score "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"
)

const namespace = "kubeflow"

// step is the outcome of a step: its state, and the part of its pod that the driver decides.
type step struct {
	Name  string
	State string
	Pod   k8score.PodSpec
}

// run does Argo's part for a graph without branches or loops. For each step, after the steps that it depends on, it calls Kubeflow's
// driver and then Kubeflow's launcher, in this process instead of a pod. It uses the ML Metadata server at metadataPort of this machine,
// the API server in KUBECONFIG, and the object storage in that server's kfp-launcher; nothing else of a cluster is needed.
// It writes the steps that ran to standard output as JSON, and the steps' own output to standard error.
func run(pipelineFile, runtimeFile, runID, metadataPort, cacheFile string) error {
	ctx := context.Background()
	spec, platform, err := load(pipelineFile)
	if err != nil {
		return err
	}
	deployment := &pipelinespec.PipelineDeploymentConfig{}
	if err := reread(spec.GetDeploymentSpec(), deployment); err != nil {
		return err
	}
	runtime, err := runtimeConfig(runtimeFile)
	if err != nil {
		return err
	}
	parameters, err := parametersOf(spec, runtime)
	if err != nil {
		return err
	}
	restConfig, err := util.GetKubernetesConfig()
	if err != nil {
		return err
	}
	cluster, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return err
	}
	store, err := metadata.NewClient("127.0.0.1", metadataPort, nil)
	if err != nil {
		return err
	}
	cache, err := newCache(cacheFile)
	if err != nil {
		return err
	}
	options := driver.Options{
		PipelineName: spec.GetPipelineInfo().GetName(), RunID: runID, RunName: "acceptance", Namespace: namespace, IterationIndex: -1,
		Component:     spec.GetRoot(),
		RuntimeConfig: &pipelinespec.PipelineJob_RuntimeConfig{ParameterValues: parameters, GcsOutputDirectory: runtime.PipelineRoot},
	}
	root, err := driver.RootDAG(ctx, options, store)
	if err != nil {
		return err
	}
	// The launcher passes a step's output to standard output, which is reserved for the report.
	report := json.NewEncoder(os.Stdout)
	os.Stdout = os.Stderr
	for _, name := range order(spec.GetRoot().GetDag().GetTasks()) {
		task := spec.GetRoot().GetDag().GetTasks()[name]
		part := spec.GetComponents()[task.GetComponentRef().GetName()]
		options := driver.Options{
			PipelineName: options.PipelineName, RunID: runID, RunName: options.RunName, Namespace: namespace, IterationIndex: -1,
			Component: part, Task: task, TaskName: name, DAGExecutionID: root.ID, DriverType: "CONTAINER",
			Container: deployment.GetExecutors()[part.GetExecutorLabel()].GetContainer(), KubernetesExecutorConfig: platform[part.GetExecutorLabel()],
			MLMDServerAddress: "127.0.0.1", MLMDServerPort: metadataPort, PublishLogs: "true", PipelineLogLevel: "1",
			PluginDispatcher: plugins.NoOpDispatcher{},
		}
		execution, err := driver.Container(ctx, options, store, cache)
		if err != nil {
			return err
		}
		state := step{Name: name, State: "cached"}
		if !*execution.Cached {
			if err := json.Unmarshal([]byte(execution.PodSpecPatch), &state.Pod); err != nil {
				return err
			}
			state.State = "succeeded"
			if err = launch(ctx, execution.ID, state.Pod.Containers[0], options, cluster, store, cache); err != nil {
				state.State = "failed"
			}
		}
		if err := errors.Join(err, report.Encode(state)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// launch runs a step with the launcher: the driver's container has the launcher's command, and the step's command as arguments.
func launch(
	ctx context.Context, id int64, container k8score.Container, options driver.Options,
	cluster kubernetes.Interface, store metadata.ClientInterface, cache cacheutils.Client,
) error {
	option := func(name string) string { return container.Command[slices.Index(container.Command, name)+1] }
	launcher, err := component.NewLauncherV2(
		ctx, id, option("--executor_input"), option("--component_spec"), container.Args,
		&component.LauncherV2Options{
			Namespace: namespace, PodName: "acceptance", PodUID: "acceptance", PipelineName: options.PipelineName, RunID: options.RunID,
			MLMDServerAddress: options.MLMDServerAddress, MLMDServerPort: options.MLMDServerPort, PublishLogs: options.PublishLogs,
		},
		client_manager.NewFakeClientManager(cluster, store, cache),
	)
	if err != nil {
		return err
	}
	return launcher.Execute(ctx)
}

// load returns the pipeline in a file, and the settings for Kubernetes by executor.
func load(file string) (*pipelinespec.PipelineSpec, map[string]*kubernetesplatform.KubernetesExecutorConfig, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	spec, platform := &pipelinespec.PipelineSpec{}, &pipelinespec.PlatformSpec{}
	messages := []proto.Message{spec, platform}
	for index, document := range strings.SplitN(string(content), "\n---\n", len(messages)) {
		asJSON, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			return nil, nil, err
		}
		if err := protojson.Unmarshal(asJSON, messages[index]); err != nil {
			return nil, nil, err
		}
	}
	configs := map[string]*kubernetesplatform.KubernetesExecutorConfig{}
	for label, executor := range platform.GetPlatforms()["kubernetes"].GetDeploymentSpec().GetExecutors() {
		configs[label] = &kubernetesplatform.KubernetesExecutorConfig{}
		if err := reread(executor, configs[label]); err != nil {
			return nil, nil, err
		}
	}
	return spec, configs, nil
}

// parametersOf returns the parameters of a request, and the pipeline's defaults for the others.
func parametersOf(spec *pipelinespec.PipelineSpec, runtime *runtimeRequest) (map[string]*structpb.Value, error) {
	parameters := map[string]*structpb.Value{}
	for name, definition := range spec.GetRoot().GetInputDefinitions().GetParameters() {
		parameters[name] = definition.GetDefaultValue()
	}
	given, err := structpb.NewStruct(runtime.Parameters)
	if err != nil {
		return nil, err
	}
	for name, value := range given.GetFields() {
		parameters[name] = value
	}
	return parameters, nil
}

// reread copies an untyped message into a typed message.
func reread(from, to proto.Message) error {
	text, err := protojson.Marshal(from)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(text, to)
}

// order returns the names of the tasks, each after the tasks that it depends on, otherwise sorted by name.
func order(tasks map[string]*pipelinespec.PipelineTaskSpec) []string {
	names := make([]string, 0, len(tasks))
	for name := range tasks {
		names = append(names, name)
	}
	slices.Sort(names)
	var ordered []string
	var visit func(name string)
	visit = func(name string) {
		if slices.Contains(ordered, name) {
			return
		}
		for _, before := range tasks[name].GetDependentTasks() {
			visit(before)
		}
		ordered = append(ordered, name)
	}
	for _, name := range names {
		visit(name)
	}
	return ordered
}

// memory is Kubeflow's cache with its keys and fingerprints, but with a file instead of the API server's table.
type memory struct {
	cacheutils.Client
	file string
	ids  map[string]string
}

func newCache(file string) (*memory, error) {
	client, err := cacheutils.NewClient("127.0.0.1", "1", false, nil) // only makes keys, and never connects
	if err != nil {
		return nil, err
	}
	cache := &memory{Client: client, file: file, ids: map[string]string{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return cache, nil
	}
	if err != nil {
		return nil, err
	}
	return cache, json.Unmarshal(text, &cache.ids)
}

func (cache *memory) GetExecutionCache(fingerprint, _, _ string) (string, error) {
	return cache.ids[fingerprint], nil
}

func (cache *memory) CreateExecutionCache(_ context.Context, task *api.Task) error {
	cache.ids[task.GetFingerprint()] = task.GetMlmdExecutionID()
	text, err := json.Marshal(cache.ids)
	if err != nil {
		return err
	}
	return os.WriteFile(cache.file, text, 0o600)
}
