{{/* Everything is named after the service: one installation a cluster, because the objects it watches are cluster-wide. */}}
{{- define "workspace-controller.name" -}}
workspace-controller
{{- end }}

{{- define "workspace-controller.selector" -}}
app.kubernetes.io/name: {{ include "workspace-controller.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "workspace-controller.labels" -}}
{{ include "workspace-controller.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: controller
app.kubernetes.io/part-of: kaito
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "workspace-controller.image" -}}
{{- $repository := .Values.image.repository }}
{{- with .Values.global.imageRegistry }}{{ $repository = printf "%s/%s" . $repository }}{{ end }}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The flags that the settings stand for, one a line. */}}
{{- define "workspace-controller.flags" -}}
{{- $images := list }}
{{- range $variant, $image := .engineImages }}{{ $images = append $images (printf "%s=%s" $variant $image) }}{{ end -}}
- {{ printf "--preset-registry=%s" .presetRegistry | quote }}
- {{ printf "--image-registry=%s" (.imageRegistry | default "") | quote }}
- {{ printf "--plain-http-hosts=%s" (join "," .plainHttpHosts) | quote }}
- {{ printf "--trusted-realms=%s" (join "," .trustedRealms) | quote }}
- {{ printf "--weights-from=%s" .weightsFrom | quote }}
- {{ printf "--engine-images=%s" (join "," $images) | quote }}
- {{ printf "--engine-override=%s" .engineOverride | quote }}
- {{ printf "--claim-api=%s" .claimApi | quote }}
- {{ printf "--node-class=%s/%s/%s" .nodeClass.group .nodeClass.kind .nodeClass.name | quote }}
- {{ printf "--node-image-family=%s" .nodeImageFamily | quote }}
- {{ printf "--lora-slots=%d" (int .lora.slots) | quote }}
- {{ printf "--lora-rank=%d" (int .lora.rank) | quote }}
- {{ printf "--adapter-preflight=%s" .adapterPreflight | quote }}
- {{ printf "--server-cpu=%s" .server.cpu | quote }}
- {{ printf "--server-memory=%s" .server.memory | quote }}
{{- $tuners := list }}
{{- range $variant, $image := .tuning.images }}{{ $tuners = append $tuners (printf "%s=%s" $variant $image) }}{{ end }}
- {{ printf "--tuner-images=%s" (join "," $tuners) | quote }}
- {{ printf "--packager-image=%s" .tuning.packagerImage | quote }}
- {{ printf "--tuner-cpu=%s" .tuning.cpu | quote }}
- {{ printf "--tuner-memory=%s" .tuning.memory | quote }}
- {{ printf "--tuner-scratch-gib=%d" (int .tuning.scratchGib) | quote }}
- {{ printf "--push-hold-seconds=%d" (int .tuning.pushHoldSeconds) | quote }}
- {{ printf "--data-hosts=%s" (join "," .tuning.dataHosts) | quote }}
- {{ printf "--data-plain-http=%t" .tuning.dataPlainHttp | quote }}
- {{ printf "--registry-checkpoints=%t" .tuning.registryCheckpoints | quote }}
- {{ printf "--allow-template=%t" .allowTemplate | quote }}
- {{ printf "--allow-host-path=%t" .allowHostPath | quote }}
{{- end }}
