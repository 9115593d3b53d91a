{{- define "gradsim.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "gradsim.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Also on run and step pods, so that policies and the cleanup find them. */}}
{{- define "gradsim.releaseLabel" -}}
gradsim/release: {{ include "gradsim.fullname" . }}
{{- end -}}

{{- define "gradsim.labels" -}}
{{ include "gradsim.selector" . }}
{{ include "gradsim.releaseLabel" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: gradsim
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* image reference of .control or .compute: (list $ "control") */}}
{{- define "gradsim.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.image (index . 1) -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "gradsim.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "gradsim.serviceAccount" -}}
{{- default (include "gradsim.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "gradsim.stepServiceAccount" -}}
{{- default (printf "%s-steps" (include "gradsim.fullname" .)) .Values.serviceAccount.stepName -}}
{{- end -}}

{{- define "gradsim.postgresHost" -}}
{{- if .Values.postgres.development.enabled -}}
{{ include "gradsim.fullname" . }}-postgres
{{- else -}}
{{ .Values.postgres.host }}
{{- end -}}
{{- end -}}

{{- define "gradsim.postgresSecret" -}}
{{- default (printf "%s-postgres" (include "gradsim.fullname" .)) .Values.postgres.existingSecret -}}
{{- end -}}

{{- define "gradsim.homeClaim" -}}
{{- default (printf "%s-home" (include "gradsim.fullname" .)) .Values.storage.home.existingClaim -}}
{{- end -}}

{{- define "gradsim.modelClaim" -}}
{{- default (printf "%s-models" (include "gradsim.fullname" .)) .Values.modelCache.existingClaim -}}
{{- end -}}

{{- define "gradsim.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "gradsim.passwordEnv" -}}
- name: DAGSTER_PG_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "gradsim.postgresSecret" . }}
      key: {{ .Values.postgres.secretKey }}
{{- end -}}

{{/* Which servers of our own pages there are. */}}
{{- define "gradsim.pageServers" -}}
{{- $servers := list -}}
{{- if and .Values.frontPage.enabled .Values.controlPlane.enabled -}}{{- $servers = append $servers "pages" -}}{{- end -}}
{{- if .Values.traceServer.enabled -}}{{- $servers = append $servers "trace" -}}{{- end -}}
{{- toYaml $servers -}}
{{- end -}}

{{/* By which address people reach our own pages; nothing where nobody serves them or knows it: no link may promise what is not there. */}}
{{- define "gradsim.web" -}}
{{- $found := "" -}}
{{- range $server := include "gradsim.pageServers" . | fromYamlArray -}}
{{- $found = default (get (ternary $.Values.traceServer $.Values.frontPage (eq $server "trace")) "url") $found -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{/* Where things lie and by which address: environment of everything that runs our code, for what only reads the whole. */}}
{{- define "gradsim.placesEnv" -}}
{{ include "gradsim.passwordEnv" . }}
- {name: GRADSIM_HOME, value: /var/lib/gradsim}
- {name: GRADSIM_CONFIG, value: /etc/gradsim/gradsim.toml}
- {name: GRADSIM_PROFILES, value: /etc/gradsim/profiles.yaml}
- {name: GRADSIM_WEB, value: {{ include "gradsim.web" . | quote }}}
{{- with .Values.storage.tables }}
- name: GRADSIM_TABLES
  value: {{ . | quote }}
{{- end }}
- name: HF_HOME
  value: {{ ternary "/var/cache/huggingface" "/var/lib/gradsim/huggingface" .Values.modelCache.enabled }}
{{- if .Values.modelCache.offline }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- /* The root filesystem is read-only and the user has no home. */}}
- {name: HOME, value: /tmp}
- {name: MPLCONFIGDIR, value: /tmp/matplotlib}
{{- with .Values.storage.s3.endpointUrl }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.storage.s3.region }}
- name: AWS_REGION
  value: {{ . | quote }}
- name: AWS_DEFAULT_REGION
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Environment of code server, run pods, step pods and the trace server: the same with what they ask others by. */}}
{{- define "gradsim.env" -}}
{{ include "gradsim.placesEnv" . }}
{{- with .Values.secrets.huggingFace }}
{{- if .existingSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}}
{{- end }}
{{- end }}
{{- with .Values.secrets.openai }}
{{- if .existingSecret }}
- name: OPENAI_API_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}}
{{- end }}
{{- with .baseUrl }}
- name: OPENAI_BASE_URL
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Secrets whose keys become variables: of object storage, and all others. */}}
{{- define "gradsim.placesSecrets" -}}
{{- $names := list -}}
{{- with .Values.storage.s3.existingSecret }}{{ $names = append $names . }}{{ end -}}
{{- toYaml $names -}}
{{- end -}}

{{- define "gradsim.envSecrets" -}}
{{- $names := .Values.secrets.envFrom -}}
{{- range include "gradsim.placesSecrets" . | fromYamlArray }}{{ $names = prepend $names . }}{{ end -}}
{{- toYaml $names -}}
{{- end -}}

{{- define "gradsim.volumes" -}}
{{ include "gradsim.claims" (list . false) }}
{{- end -}}

{{- define "gradsim.volumeMounts" -}}
{{ include "gradsim.mounts" (list . false) }}
{{- end -}}

{{/* Volumes of what runs our code, and of what only reads (the second is true): (list $ true) */}}
{{- define "gradsim.claims" -}}
{{- $root := index . 0 -}}
- name: tmp
  emptyDir: {}
- name: dagster-home
  emptyDir: {}
- name: config
  configMap: {name: {{ include "gradsim.fullname" $root }}-config}
- name: home
  persistentVolumeClaim: {claimName: {{ include "gradsim.homeClaim" $root }}}
{{- if and $root.Values.modelCache.enabled (not (index . 1)) }}
- name: models
  persistentVolumeClaim: {claimName: {{ include "gradsim.modelClaim" $root }}}
{{- end }}
{{- end -}}

{{- define "gradsim.mounts" -}}
{{- $root := index . 0 -}}
{{- $reads := index . 1 -}}
- {name: tmp, mountPath: /tmp}
- {name: dagster-home, mountPath: /opt/dagster/dagster_home}
- {name: config, mountPath: /etc/gradsim, readOnly: true}
- {name: home, mountPath: /var/lib/gradsim{{ if $reads }}, readOnly: true{{ end }}}
{{- if and $root.Values.modelCache.enabled (not $reads) }}
- {name: models, mountPath: /var/cache/huggingface}
{{- end }}
{{- end -}}

{{/* Volumes of webserver and daemon: Dagster's own settings, and the step logs that the UI shows. */}}
{{- define "gradsim.controlVolumes" -}}
- name: tmp
  emptyDir: {}
- name: dagster-home
  emptyDir: {}
- name: instance
  configMap: {name: {{ include "gradsim.fullname" . }}-instance}
{{- if eq .Values.instance.computeLogs "volume" }}
- name: home
  persistentVolumeClaim: {claimName: {{ include "gradsim.homeClaim" . }}}
{{- end }}
{{- end -}}

{{- define "gradsim.controlVolumeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: dagster-home, mountPath: /opt/dagster/dagster_home}
- {name: instance, mountPath: /opt/dagster/dagster_home/dagster.yaml, subPath: dagster.yaml, readOnly: true}
- {name: instance, mountPath: /etc/dagster/workspace.yaml, subPath: workspace.yaml, readOnly: true}
{{- if eq .Values.instance.computeLogs "volume" }}
- {name: home, mountPath: /var/lib/gradsim}
{{- end }}
{{- end -}}

{{/*
What run and step pods get. It travels with the code location and not in dagster.yaml, so that it also holds under an
official Dagster chart's launcher. Resources said here are inherited by steps: a profile overrides key by key.
*/}}
{{- define "gradsim.containerContext" -}}
k8s:
  namespace: {{ .Release.Namespace | quote }}
  service_account_name: {{ include "gradsim.serviceAccount" . }}
  image_pull_policy: {{ .Values.image.pullPolicy }}
  {{- with .Values.image.pullSecrets }}
  image_pull_secrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  env: {{- include "gradsim.env" . | nindent 4 }}
  env_secrets: {{- include "gradsim.envSecrets" . | nindent 4 }}
  volumes: {{- include "gradsim.volumes" . | nindent 4 }}
  volume_mounts: {{- include "gradsim.volumeMounts" . | nindent 4 }}
  labels: {{- include "gradsim.releaseLabel" . | nindent 4 }}
  resources: {{- toYaml .Values.runPod.resources | nindent 4 }}
  security_context: {{- include "gradsim.containerSecurity" . | nindent 4 }}
  run_k8s_config:
    pod_template_spec_metadata:
      annotations: {{- toYaml .Values.runPod.annotations | nindent 8 }}
    pod_spec_config:
      securityContext: {{- toYaml .Values.podSecurityContext | nindent 8 }}
      {{- with .Values.runPod.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.runPod.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
    job_spec_config:
      ttl_seconds_after_finished: {{ .Values.runPod.ttlSecondsAfterFinished | int64 }}
{{- end -}}

{{/* Profiles as the code reads them: what the values say, with the image, account and clean-up time filled in. */}}
{{- define "gradsim.profiles" -}}
{{- $root := . -}}
{{- $profiles := dict -}}
{{- range $name, $given := .Values.profiles -}}
{{- $profile := dict "image" (include "gradsim.image" (list $root "compute")) "imagePullPolicy" $root.Values.image.pullPolicy "serviceAccountName" (include "gradsim.stepServiceAccount" $root) -}}
{{- range $key, $value := $given -}}
{{- if not (or (eq (toString $value) "") (kindIs "invalid" $value)) -}}
{{- if kindIs "float64" $value -}}{{- $value = int64 $value -}}{{- end -}}
{{- $_ := set $profile $key $value -}}
{{- end -}}
{{- end -}}
{{- $_ := set $profiles $name $profile -}}
{{- end -}}
{{- toYaml $profiles -}}
{{- end -}}

{{/* What a JSON schema cannot say. */}}
{{- define "gradsim.validate" -}}
{{- if not .Values.postgres.development.enabled -}}
{{- if not .Values.postgres.host -}}{{- fail "postgres.host is empty: name an existing server, or set postgres.development.enabled=true for a trial." -}}{{- end -}}
{{- if not .Values.postgres.existingSecret -}}{{- fail "postgres.existingSecret is empty: name the secret that holds the server's password." -}}{{- end -}}
{{- end -}}
{{- range $where, $resources := dict "runPod" .Values.runPod.resources "codeLocation" .Values.codeLocation.resources -}}
{{- range $quantity, $_ := default dict $resources.limits -}}
{{- if contains "/" $quantity -}}{{- fail (printf "%s.resources.limits has %s, which every run and step would take: devices belong in profiles." $where $quantity) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $run := .Values.runPod.resources -}}
{{- range $name, $profile := .Values.profiles -}}
{{- $resources := default dict $profile.resources -}}
{{- range $side := list "requests" "limits" -}}
{{- $said := default dict (index $resources $side) -}}
{{- range $quantity, $_ := default dict (index $run $side) -}}
{{- if not (hasKey $said $quantity) -}}{{- fail (printf "profiles.%s.resources.%s lacks %s: the step would inherit the run pod's; say it in the profile." $name $side $quantity) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.traceServer -}}
{{- if .enabled -}}
{{- if not $.Values.controlPlane.enabled -}}{{- fail "traceServer.enabled needs controlPlane.enabled: the instance says which models are registered." -}}{{- end -}}
{{- if not (hasKey $.Values.profiles .profile) -}}{{- fail (printf "traceServer.profile is %s, which is not among profiles." .profile) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.modelCache.prefetch (not .Values.modelCache.enabled) -}}{{- fail "modelCache.prefetch lists models, but modelCache.enabled is false." -}}{{- end -}}
{{- end -}}

{{- /* Where Dagster keeps runs and events, as its configuration has it. */}}
{{- define "gradsim.storage" -}}
storage:
  postgres:
    postgres_db:
      hostname: {{ include "gradsim.postgresHost" . | quote }}
      port: {{ .Values.postgres.port | int64 }}
      db_name: {{ .Values.postgres.database | quote }}
      username: {{ .Values.postgres.username | quote }}
      password: {env: DAGSTER_PG_PASSWORD}
      {{- with .Values.postgres.sslMode }}
      params: {sslmode: {{ . }}}
      {{- end }}
{{- end }}
