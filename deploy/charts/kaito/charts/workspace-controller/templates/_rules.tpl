{{/* The entries of permissions.yaml of one scope, as rules of RBAC. Call with (list scope root). */}}
{{- define "workspace-controller.rules" -}}
{{- $scope := index . 0 }}
{{- $root := index . 1 }}
{{- range $root.Files.Get "permissions.yaml" | fromYamlArray }}
{{- $claims := or (not .claimApi) (eq (.claimApi | default "") $root.Values.settings.claimApi) }}
{{- $webhook := or (not .webhook) (and $root.Values.webhook.enabled (eq (.webhook | default "") $root.Values.webhook.certificates)) }}
{{- $trust := or (not .registryCA) ($root.Values.global.registryCA).configMap }}
{{- if and (eq .scope $scope) $claims $webhook $trust }}
# {{ .why | trim }}
- apiGroups: {{ toJson .apiGroups }}
  resources: {{ toJson .resources }}
  {{- with .resourceNames }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: {{ toJson .verbs }}
{{- end }}
{{- end }}
{{- end }}
