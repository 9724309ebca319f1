-- The role stays: it belongs to the cluster, and other databases may use it.
REVOKE SELECT ON public.creditgate_version FROM creditgate_writer;
DROP SCHEMA creditgate CASCADE;
