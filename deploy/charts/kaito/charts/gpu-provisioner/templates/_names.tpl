{{/* Everything is named after the service: one installation a cluster, because the objects it watches are cluster-wide. */}}
{{- define "gpu-provisioner.name" -}}
gpu-provisioner
{{- end }}

{{- define "gpu-provisioner.selector" -}}
app.kubernetes.io/name: {{ include "gpu-provisioner.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gpu-provisioner.labels" -}}
{{ include "gpu-provisioner.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: controller
app.kubernetes.io/part-of: kaito
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "gpu-provisioner.image" -}}
{{- $repository := .Values.image.repository }}
{{- with .Values.global.imageRegistry }}{{ $repository = printf "%s/%s" . $repository }}{{ end }}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The flags that the settings stand for, one a line. */}}
{{- define "gpu-provisioner.flags" -}}
- {{ printf "--subscription-id=%s" .azure.subscriptionId | quote }}
- {{ printf "--resource-group=%s" .azure.resourceGroup | quote }}
- {{ printf "--cluster-name=%s" .azure.clusterName | quote }}
- {{ printf "--tenant-id=%s" .azure.tenantId | quote }}
- {{ printf "--client-id=%s" .azure.clientId | quote }}
- {{ printf "--credential=%s" .azure.credential | quote }}
- {{ printf "--cloud=%s" .azure.cloud | quote }}
{{- with .azure.endpoint }}
- {{ printf "--endpoint=%s" . | quote }}
{{- end }}
{{- with .azure.authority }}
- {{ printf "--authority=%s" . | quote }}
{{- end }}
{{- if .azure.caBundle }}
- "--ca-file=/etc/kaito/azure/ca.pem"
{{- end }}
{{- if and .azure.projectToken (eq .azure.credential "workload-identity") }}
- "--federated-token-file=/var/run/secrets/azure/tokens/azure-identity-token"
{{- end }}
{{- if .poolPerClaim }}
- "--pool-per-claim"
{{- end }}
- {{ printf "--put-burst=%v" .putBurst | quote }}
- {{ printf "--put-per-minute=%v" .putPerMinute | quote }}
- {{ printf "--log-level=%s" .logLevel | quote }}
{{- end }}
