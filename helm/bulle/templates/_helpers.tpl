{{/* Full name of the release: names of all objects begin with it. */}}
{{- define "bulle.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "bulle.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "bulle.labels" -}}
{{ include "bulle.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* An image, named by its content: a tag can be moved, and then nobody knows what runs. */}}
{{- define "bulle.image" -}}
{{- $image := index .root.Values.images .name -}}
{{- if not (regexMatch "^([a-z0-9][a-z0-9._/:-]*@)?sha256:[0-9a-f]{64}$" (default "" $image)) -}}
{{- fail (printf "images.%s: name the image by its content, such as registry.example.org/bulle/%s@sha256:…; it is %q" .name .name (default "" $image)) -}}
{{- end -}}
{{ $image }}
{{- end }}

{{/* Every container but the node agent's. */}}
{{- define "bulle.security" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ .uid }}
runAsGroup: {{ .uid }}
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "bulle.environment" -}}
- {name: BULLE_SETTINGS, value: /etc/bulle/bulle.yaml}
- {name: HOME, value: /tmp}
- {name: TMPDIR, value: /tmp}
{{- end }}

{{/* What every pod of the control plane says of itself. */}}
{{- define "bulle.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bulle.podSecurity" -}}
runAsNonRoot: true
fsGroup: 1013
# Once: a plugin that gave the group everything at each start would open private keys to it.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* A secret's name: the one that the administrator made, or the chart's. */}}
{{- define "bulle.secret" -}}
{{- $own := index .root.Values.secrets .name -}}
{{- if $own }}{{ $own }}{{ else }}{{ include "bulle.fullname" .root }}-{{ .suffix }}{{ end }}
{{- end }}

{{/* The settings file. What the chart sets itself cannot be set in `settings`: the schema refuses it there. */}}
{{- define "bulle.settings" -}}
{{- $name := include "bulle.fullname" . -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $kubernetes := mergeOverwrite (deepCopy (default dict $settings.kubernetes)) (dict
    "name" $name
    "namespace" .Release.Namespace
    "kubelet" .Values.kubelet.folder
    "hub" (list (printf "%s-hub.%s.svc.%s:8081" $name .Release.Namespace .Values.clusterDomain))
    "authority" (printf "https://%s-authority.%s.svc:8443" $name .Release.Namespace)
    "tls" "/etc/bulle/tls"
    "images" (dict "gateway" (include "bulle.image" (dict "root" . "name" "gateway")) "sandbox" (include "bulle.image" (dict "root" . "name" "sandbox")))) -}}
{{- if and .Values.images.pullSecrets (not $kubernetes.image_pull_secrets) }}{{ $_ := set $kubernetes "image_pull_secrets" .Values.images.pullSecrets }}{{ end -}}
{{- if and .Values.priorityClasses.create (not $kubernetes.priority_class) }}{{ $_ := set $kubernetes "priority_class" (printf "%s-workspace" $name) }}{{ end -}}
{{- $fixed := dict
    "deployment" (default $name .Values.deployment)
    "state" .Values.state
    "listen" "0.0.0.0:8000"
    "internal_port" 8081
    "kubernetes" $kubernetes -}}
{{- if .Values.demo.enabled -}}
{{- $_ := set $fixed "public_url" "http://localhost:8000" -}}
{{- /* The demonstration's provider forgets with its pod whom it knows: asked again, it would end everybody's session. */}}
{{- $_ := set $fixed "oidc" (dict "issuer" "http://127.0.0.1:8084" "client_id" "bulle" "refresh_seconds" 0 "client_secret_file" (printf "%s/secrets/hub/client-secret" .Values.state)) -}}
{{- else -}}
{{- if not .Values.publicUrl }}{{ fail "publicUrl: the address at which people reach it, such as https://bulle.example.org" }}{{ end -}}
{{- $_ := set $fixed "public_url" .Values.publicUrl -}}
{{- if not (kindIs "map" $settings.oidc) }}{{ fail "settings.oidc: the OpenID provider (issuer, client_id)" }}{{ end -}}
{{- if not (or .Values.secrets.oidc .Values.secrets.shared) }}{{ fail "secrets.oidc: the Secret with the key client-secret that the OpenID provider gave" }}{{ end -}}
{{- $_ := set $fixed "oidc" (mergeOverwrite (deepCopy (default dict $settings.oidc)) (dict "client_secret_file" (printf "%s/secrets/hub/client-secret" .Values.state))) -}}
{{- end -}}
{{- if .Values.tls.secretName -}}
{{- $_ := set $fixed "tls" (dict "certificate_file" "/etc/bulle/public-tls/tls.crt" "key_file" "/etc/bulle/public-tls/tls.key") -}}
{{- end -}}
{{- if .Values.database.internal -}}
{{- $_ := set $fixed "database" "postgresql://bulle@/bulle" -}}
{{- $_ := set $fixed "database_socket" (printf "%s/database/socket" .Values.state) -}}
{{- else if .Values.database.url -}}
{{- $_ := set $fixed "database" .Values.database.url -}}
{{- $_ := set $fixed "database_ca_file" "/etc/bulle/database/ca.crt" -}}
{{- if .Values.database.secretName }}{{ $_ := set $fixed "database_password_file" "/etc/bulle/database/password" }}{{ end -}}
{{- end -}}
{{- if eq .Values.custodian.kind "pkcs11" -}}
{{- $_ := set $fixed "custodian" (dict "kind" "pkcs11" "module" .Values.custodian.pkcs11.module "token_label" .Values.custodian.pkcs11.tokenLabel "key_label" .Values.custodian.pkcs11.keyLabel "pin_file" "/etc/bulle/custodian/pin") -}}
{{- end -}}
{{- if .Values.metrics.enabled -}}
{{- $_ := set $fixed "metrics" (dict "listen" "0.0.0.0:9464" "token_file" (printf "%s/secrets/metrics/scrape-token" .Values.state)) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $settings $fixed) -}}
{{- end }}

{{/* The port of an address such as https://login.example.org:8443/realm, and what it is where none is said. */}}
{{- define "bulle.port" -}}
{{- default (toString .default) (regexFind ":[0-9]+$" (urlParse .address).host | trimPrefix ":") -}}
{{- end }}

{{/* Names, and the cluster's API: asked by its Service's port, and by the one behind it. */}}
{{- define "bulle.toCluster" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
- ports: [{port: 443, protocol: TCP}, {port: 6443, protocol: TCP}]
  {{- with .Values.networkPolicy.apiServer }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/*
Probes of a part that listens where kubelet does not come, on loopback or a unix socket: a program in Python asks from inside.
Without a readiness probe of its own Kubernetes 1.20 says a minute late that a container is ready. Looks that fail are no
reason to take the whole pod out of the Service: liveness comes before.
*/}}
{{- define "bulle.askedInside" -}}
{{- $ask := dict "exec" (dict "command" (list "/usr/bin/python3" "-Ic" .)) -}}
startupProbe: {{- toYaml (merge (dict "periodSeconds" 2 "timeoutSeconds" 5 "failureThreshold" 60) $ask) | nindent 2 }}
readinessProbe: {{- toYaml (merge (dict "periodSeconds" 15 "timeoutSeconds" 10 "failureThreshold" 20) $ask) | nindent 2 }}
livenessProbe: {{- toYaml (merge (dict "periodSeconds" 60 "timeoutSeconds" 10 "failureThreshold" 3) $ask) | nindent 2 }}
{{- end }}

{{/* Waits until the control pod has made the data volume's folders. Kubelet would make the one that a container mounts
(subPath) as root's, and then the control plane, which is not root, could not use it. */}}
{{- define "bulle.waitForFolders" -}}
- name: wait-for-folders
  image: {{ include "bulle.image" (dict "root" . "name" "node") }}
  imagePullPolicy: IfNotPresent
  command: [/bin/sh, -c, "until [ -e /volumes/data/public/grant.pub.pem ]; do sleep 0.3; done"]
  securityContext: {{- include "bulle.security" (dict "uid" 1013) | nindent 4 }}
  resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 500m, memory: 64Mi}}
  volumeMounts:
    - {name: data, mountPath: /volumes/data, readOnly: true}
{{- end }}

{{/* What cannot be together, said before anything is installed. */}}
{{- define "bulle.check" -}}
{{- if not (regexMatch "^[a-z]" (include "bulle.fullname" .)) }}{{ fail "fullnameOverride: names of Services begin with a letter" }}{{ end -}}
{{- if and .Values.demo.enabled (or .Values.ingress.enabled .Values.tls.secretName .Values.publicUrl) }}{{ fail "demo.enabled: the demonstration is on loopback, without publicUrl, ingress and tls" }}{{ end -}}
{{- if and .Values.ingress.enabled (not (regexMatch "^https://[a-z0-9]([-a-z0-9.]*[a-z0-9])?[.][a-z][-a-z0-9]*(:[0-9]+)?/?$" .Values.publicUrl)) }}{{ fail "ingress.enabled: publicUrl must be https:// and a name, no address" }}{{ end -}}
{{- if and .Values.tls.secretName (hasPrefix "http:" .Values.publicUrl) }}{{ fail "tls.secretName: publicUrl must be https://" }}{{ end -}}
{{- if and .Values.database.internal .Values.database.url }}{{ fail "database.internal and database.url: one of them" }}{{ end -}}
{{- if and .Values.images.ahead (not .Values.images.prePull) }}{{ fail "images.ahead: only with images.prePull" }}{{ end -}}
{{- if hasKey .Values.namespace.quota "limits.cpu" }}{{ fail "namespace.quota: not of limits.cpu, because node agents have no limit of it and would not start" }}{{ end -}}
{{- if and .Values.metrics.operator (not .Values.metrics.enabled) }}{{ fail "metrics.operator: there is nothing to ask without metrics.enabled" }}{{ end -}}
{{- if and (eq .Values.custodian.kind "pkcs11") (not .Values.custodian.pkcs11.module) }}{{ fail "custodian.pkcs11.module: the library of the token" }}{{ end -}}
{{- if ne (empty .Values.secrets.authorityTls) (empty .Values.secrets.nodeTls) }}{{ fail "secrets.authorityTls and secrets.nodeTls: both or none, because one authority signs both" }}{{ end -}}
{{- end }}
